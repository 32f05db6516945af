r"""Paths of tokens: absorbing (masked) and uniform corruption, and their sampling steps.

$\alpha$ is the probability that a token has survived: 0 at the noise, 1 at the data. The absorbing
process puts the mask in place of a lost token, the uniform one a random token. One transition
draws every position by itself, given the posterior $p_i(v \mid x)$ of its clean token.

References:
    | Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), arXiv 2406.07524
    | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
      arXiv 2107.03006
    | Remasking Discrete Diffusion Models with Inference-Time Scaling (Wang et al., 2025),
      arXiv 2503.00307
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

__all__ = ["MaskedPath", "Order", "TokenPath", "TokenStep", "UniformPath", "draw_tokens"]

Order = Literal["random", "confidence"]


@dataclass(frozen=True)
class TokenStep:
    r"""One transition of a path of tokens, from $\alpha$ to $\alpha'$.

    Arguments:
        alpha: Probability that a token has survived before the transition, in [0, 1).
        alpha_next: The same after it, in (alpha, 1].
    """

    alpha: float
    alpha_next: float

    @property
    def sigma(self) -> float:
        """Probability that a token is lost before the transition."""
        return 1 - self.alpha


@dataclass(frozen=True)
class TokenPath:
    r"""Levels $0 = \alpha_0 < \dots < \alpha_T = 1$ that a run goes through.

    ============  ===========================
    schedule      $\alpha$ at the share u
    ============  ===========================
    linear        $u$
    cosine        $1 - \cos(\pi u / 2)$
    ============  ===========================

    Arguments:
        steps: Number of transitions T, at least 1.
        schedule: "linear" (as many tokens in each transition) or "cosine" (few at first).

    Raises:
        ValueError: If a setting is out of range.
    """

    steps: int
    schedule: Literal["linear", "cosine"] = "linear"
    uniforms: ClassVar[int] = 2
    """Random numbers that a transition takes for each position."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be linear or cosine, got {self.schedule!r}")

    def transitions(self) -> Iterator[TokenStep]:
        """The transitions of a run.

        >>> [round(step.alpha_next, 2) for step in TokenPath(4, "cosine").transitions()]
        [0.08, 0.29, 0.62, 1.0]
        """
        for i in range(self.steps):
            yield TokenStep(self.level(i / self.steps), self.level((i + 1) / self.steps))

    def level(self, share: float) -> float:
        r"""$\alpha$ where this share of the run is done."""
        if share >= 1:
            return 1.0
        return share if self.schedule == "linear" else 1 - math.cos(math.pi * share / 2)


@dataclass(frozen=True)
class MaskedPath(TokenPath):
    r"""Absorbing process: lost tokens are the mask; the run begins with masks alone.

    With `order="random"` a masked position is uncovered with probability
    $(\alpha' - (1 - s) \alpha) / (1 - \alpha)$ and an uncovered one masked again with $s = \eta
    \min(1, (1 - \alpha') / \alpha)$, $\eta$ = `remask`: whatever $\eta$, the marginals are those
    of the process. "confidence" draws all masked positions and keeps the surest, as many as the
    level asks for; a chain without a known law of its own, which steering tilts as well.

    Arguments:
        mask: Number of the mask token, never drawn.
        order: "random" or "confidence".
        remask: $\eta$ in [0, 1], only with "random".

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> path = MaskedPath(2, mask=3)
        >>> x, p = torch.tensor([[3, 3]]), torch.tensor([[[0.5, 0.5, 0, 0], [0, 1.0, 0, 0]]])
        >>> path.move(x, p, TokenStep(0.5, 1.0), torch.full((1, 2, 2), 0.7))
        tensor([[1, 1]])
    """

    mask: int = -1
    order: Order = "random"
    remask: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask < 0:
            raise ValueError(f"mask must be the number of the mask token, got {self.mask}")
        if self.order not in get_args(Order):
            raise ValueError(f"order must be random or confidence, got {self.order!r}")
        if not 0 <= self.remask <= 1:
            raise ValueError(f"remask must be in [0, 1], got {self.remask}")
        if self.remask and self.order != "random":
            raise ValueError(f"remask must be 0 with order {self.order!r}, got {self.remask}")

    def initial(self, template: Tensor, vocabulary: int, uniform: Tensor) -> Tensor:
        """The template with masks where it holds -1, shape (N, L)."""
        return torch.where(template < 0, self.mask, template)

    def allowed(self, logits: Tensor) -> Tensor:
        """Logits without the mask token."""
        if self.mask >= logits.shape[-1]:
            return logits
        banned = torch.arange(logits.shape[-1], device=logits.device) == self.mask
        return logits.masked_fill(banned, -math.inf)

    def estimate(self, x: Tensor, p: Tensor, uniform: Tensor) -> Tensor:
        r"""A draw of the clean tokens: each masked position from its own $p_i$.

        Arguments:
            x: State, shape (..., L).
            p: Posteriors at x, shape (..., L, V).
            uniform: Random numbers in (0, 1), shape (..., L).
        """
        return torch.where(x == self.mask, draw_tokens(p, uniform), x)

    def move(
        self, x: Tensor, p: Tensor, step: TokenStep, uniform: Tensor, free: Tensor | None = None
    ) -> Tensor:
        """One transition of N rows.

        Arguments:
            x: State, shape (N, L).
            p: Posteriors at x, shape (N, L, V).
            step: Levels.
            uniform: Random numbers in (0, 1), shape (N, 2, L).
            free: Positions that may be masked again, shape (N, L); None for all.
        """
        masked = x == self.mask
        drawn = draw_tokens(p, uniform[:, 1])
        if self.order == "confidence":
            return torch.where(self._surest(masked, p, drawn, step), drawn, x)
        again = self.remask * min(1.0, (1 - step.alpha_next) / max(step.alpha, 1e-300))
        shown = (step.alpha_next - (1 - again) * step.alpha) / (1 - step.alpha)
        x_next = torch.where(masked & (uniform[:, 0] < shown), drawn, x)
        if again == 0:
            return x_next
        lost = ~masked & (uniform[:, 0] < again)
        return torch.where(lost if free is None else lost & free, self.mask, x_next)

    def _surest(self, masked: Tensor, p: Tensor, drawn: Tensor, step: TokenStep) -> Tensor:
        """Masked positions of the largest probability, as many as leave the level's share."""
        sure = p.gather(-1, drawn[..., None])[..., 0].masked_fill(~masked, -1.0)
        share = (step.alpha_next - step.alpha) / (1 - step.alpha)
        count = (masked.sum(1) * share).ceil().clamp(min=1)
        rank = sure.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        return masked & (rank < count[:, None])


@dataclass(frozen=True)
class UniformPath(TokenPath):
    r"""Uniform process: lost tokens are random ones; the run begins with random tokens.

    A transition draws $x_0 \sim p_i(\cdot \mid x)$ and then $x'$ from the posterior given both,
    with $a = \alpha / \alpha'$: to $x_0$ in proportion to $\alpha' (1 - a) / V + \alpha 1[x =
    x_0]$, staying $a (1 - \alpha') / V$, to a random token $(1 - a) (1 - \alpha') / V$.

    Example:
        >>> p = torch.tensor([[[0.0, 1.0]]])
        >>> UniformPath(1).move(torch.tensor([[0]]), p, TokenStep(0, 1.0), torch.ones(1, 3, 1) / 2)
        tensor([[1]])
    """

    uniforms: ClassVar[int] = 3

    def initial(self, template: Tensor, vocabulary: int, uniform: Tensor) -> Tensor:
        """The template with random tokens where it holds -1, shape (N, L)."""
        return torch.where(template < 0, _any(uniform, vocabulary), template)

    def allowed(self, logits: Tensor) -> Tensor:
        """All logits."""
        return logits

    def estimate(self, x: Tensor, p: Tensor, uniform: Tensor) -> Tensor:
        """A draw of the clean tokens, shapes as in `MaskedPath.estimate`."""
        return draw_tokens(p, uniform)

    def move(
        self, x: Tensor, p: Tensor, step: TokenStep, uniform: Tensor, free: Tensor | None = None
    ) -> Tensor:
        """One transition of N rows; `uniform` has shape (N, 3, L)."""
        v, a, b = p.shape[-1], step.alpha / step.alpha_next, step.alpha_next
        x0 = draw_tokens(p, uniform[:, 1])
        clean = b * (1 - a) / v + a * b * (x == x0).double()
        stay, noise = a * (1 - b) / v, (1 - a) * (1 - b) / v
        place = uniform[:, 0].double() * (clean + stay + noise)
        x_next = torch.where(place < clean, x0, x)
        x_next = torch.where(place >= clean + stay, _any(uniform[:, 2], v), x_next)
        x_next = x0 if b == 1 else x_next
        return x_next if free is None else torch.where(free, x_next, x)


def draw_tokens(p: Tensor, uniform: Tensor) -> Tensor:
    """Tokens from probabilities (..., V) by the inverse distribution function, shape (...).

    >>> draw_tokens(torch.tensor([[0.2, 0.0, 0.8]]), torch.tensor([0.1])).item()
    0
    """
    below = p.double().cumsum(-1)
    # Against the total itself: rounding must not let a number beyond the last positive one pass.
    place = uniform.double()[..., None] * below[..., -1:]
    return (below <= place).sum(-1).clamp(max=p.shape[-1] - 1)


def _any(uniform: Tensor, vocabulary: int) -> Tensor:
    return (uniform.double() * vocabulary).long().clamp(max=vocabulary - 1)

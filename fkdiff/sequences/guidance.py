r"""Straight-through guidance: lean on a classifier of clean sequences from within a noisy flow.

Needs nothing but logits, so it serves any discrete flow or diffusion that yields them.

References:
    | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
    | Sequence Generation (Tang et al., 2025), arXiv 2503.17361
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fkdiff.processes.simplex import Simplex, pull_back
from fkdiff.terms.clock import check_interval, within
from fkdiff.terms.reward import Reward, as_reward
from fkdiff.terms.reward_algebra import values_of
from fkdiff.terms.term import Weightless

__all__ = ["StraightThrough", "straight_through"]


def straight_through(
    guide: Callable[[Tensor], Tensor],
    logits: Tensor,
    mask: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    r"""Straight-through gradient of a classifier with respect to the logits of its input.

    $$\frac{1}{M} \sum_m \nabla_{\mathrm{logits}} f(\tilde h_m)
    = \tfrac{1}{T}\, p \odot (\bar d - \langle p, \bar d \rangle), \quad
    \bar d = \frac{1}{M} \sum_m \nabla f(h_m),\; h_m \sim p = \mathrm{softmax}(\mathrm{logits}/T)$$

    which is what differentiating $\tilde h_m = \mathrm{stopgrad}(h_m - p) + p$ gives. Where f is
    linear its mean over the draws is the exact gradient of $E[f(h)]$.

    Arguments:
        guide: One-hot sequences (n, L, K), zero at padding, to values (n,); differentiable.
        logits: Shape (n, L, K).
        mask: True where there is a position, shape (n, L), bool.
        uniform: Uniform numbers in [0, 1), shape (n, M, L), M at least 1.
        temperature: T, positive.

    Returns:
        Shape (n, L, K), float32, each position sums to 0; zero at padding.

    Raises:
        ValueError: If M is 0, or the guide doesn't return n differentiable numbers.

    Example:
        >>> prize = torch.tensor([1.0, 0.0])
        >>> mask, draws = torch.ones(1, 1, dtype=torch.bool), torch.rand(1, 5, 1)
        >>> straight_through(lambda h: (h * prize).sum((1, 2)), torch.zeros(1, 1, 2), mask, draws)
        tensor([[[ 0.2500, -0.2500]]])
    """
    n, draws, length = uniform.shape
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    p = (logits.float() / temperature).softmax(-1)
    ends = p.cumsum(-1)[:, None]
    tokens = (uniform[..., None].to(p) * ends[..., -1:] >= ends).sum(-1).clamp(max=p.shape[-1] - 1)
    hard = torch.nn.functional.one_hot(tokens, p.shape[-1]).float() * mask[:, None, :, None]
    gradient = _gradient(guide, hard.flatten(0, 1)).reshape(hard.shape).mean(1)
    pushed = p * (gradient - (p * gradient).sum(-1, keepdim=True)) / temperature
    return pushed * mask[..., None]


def _gradient(guide: Callable[[Tensor], Tensor], hard: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = hard.detach().requires_grad_()
        values = values_of(guide, leaf, {})
        if not isinstance(values, Tensor) or tuple(values.shape) != (len(leaf),):
            raise ValueError(f"guide must return shape ({len(leaf)},), got {_shape(values)}")
        if not values.requires_grad:
            raise ValueError(
                "guide must be differentiable in its one-hot input; leave out no_grad, argmax "
                "and numpy"
            )
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return gradient.to(hard)


def _shape(values: Any) -> str:
    return str(tuple(values.shape)) if isinstance(values, Tensor) else type(values).__name__


@dataclass(frozen=True)
class StraightThrough(Weightless):
    r"""Guide a flow on sequences by the straight-through gradient of a classifier.

    Adds the drift $\delta = \gamma\, \alpha'_t\, u$ to centred logits. In the published form u is
    the gradient with respect to the network's logits, from `straight_through`. By default it is
    carried back to z (`pull_back`), which makes it vanish where z tells nothing yet, and $\gamma =
    \eta^2 \lambda$ about the best proposal for `Tilt(guide, scale=lambda)`. With the stochastic
    step, $\epsilon^2 = \eta^2 \alpha'$, the particles carry the proposal ratio

    $$\log \frac{p}{\tau} = -\frac{\delta \cdot (z' - \mu)}{\epsilon^2}
    + \frac{|\delta|^2 dt}{2 \epsilon^2}$$

    ($\mu$ the unguided mean), so that the weighted cloud stands for the unguided law times
    whatever the other terms ask for. With `reweight=False` it is a heuristic.

    Arguments:
        guide: A differentiable reward of kind "simplex", or a formula over several
            (`0.7 * amp - 0.3 * hemolytic`): one-hot sequences (n, L, K), zero at padding, to (n,).
            A plain callable is taken as such.
        scale: $\gamma$, finite; 0 guides nowhere.
        draws: M, one-hot sequences a step, at least 1.
        temperature: T of the draws, positive.
        window: Shares of the run between which it guides, first < progress <= last.
        reweight: Whether particles carry the proposal ratio.
        space: "state" carries the gradient back to z, "logits" is the published form.

    Raises:
        ValueError: If an argument is out of range, or the guide has no gradient.

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361

    Example:
        >>> StraightThrough(lambda h: h[..., 0].sum(1), scale=2.0).target
        'unguided law (by the proposal ratio)'
    """

    guide: Reward | Callable[[Tensor], Tensor]
    scale: float = 1.0
    draws: int = 10
    temperature: float = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    reweight: bool = True
    space: Literal["state", "logits"] = "state"

    def __post_init__(self) -> None:
        guide = self.guide
        if not isinstance(guide, Reward):
            guide = as_reward(guide, inputs="simplex", differentiable=True)
            object.__setattr__(self, "guide", guide)
        if guide.inputs != "simplex" or not guide.differentiable:
            raise ValueError(
                f"guide must be a differentiable reward of kind simplex, got {guide.name!r} of "
                f"kind {guide.inputs}; use it with Tilt, which needs no gradient"
            )
        if self.space not in ("state", "logits"):
            raise ValueError(f"space must be state or logits, got {self.space!r}")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale must be finite, got {self.scale}")
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        check_interval("window", self.window)

    @property
    def needs(self) -> frozenset[str]:
        """Gradients of the guide."""
        return frozenset({"grad"})

    @property
    def steers(self) -> bool:
        """Whether the proposal ratio makes weights differ."""
        return self.reweight and self.scale != 0

    @property
    def target(self) -> str:
        """The unguided law, or none."""
        return "unguided law (by the proposal ratio)" if self.reweight else "heuristic"

    def active(self, progress: float) -> bool:
        """Whether it guides in the transition of this progress, in (0, 1]."""
        return self.scale != 0 and within(self.window, progress)

    def drift(
        self, z: Tensor, logits: Tensor, levels: Simplex, mask: Tensor, uniform: Tensor
    ) -> Tensor:
        r"""$\gamma u$: drift of the centred logits per unit of gain, shape (n, L, K).

        Arguments:
            z: Centred logits, shape (n, L, K).
            logits: Of the posterior, same shape.
            levels: The transition.
            mask: True where there is a position, shape (n, L), bool.
            uniform: Uniform numbers in [0, 1), shape (n, M, L).
        """
        guide: Any = self.guide
        u = straight_through(guide, logits, mask, uniform, self.temperature)
        if self.space == "state":
            u = pull_back(z, u, levels.alpha, levels.sigma)
        return self.scale * u

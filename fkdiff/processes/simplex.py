r"""Gumbel-softmax path on the simplex, in centred logits: $z_t = P[\alpha_t e_k + \sigma_t g]$.

$e_k$ is the one-hot token, $g$ has iid Gumbel(0, 1) entries, $P$ subtracts the mean over the K
categories, and $x_t = \mathrm{softmax}(z_t)$ is the point on the simplex. With $T = 1 / \sigma_t$
and $a = \alpha_t / \sigma_t$, $x_t$ given the token is a Concrete variable of temperature T and
log-weights $a\,e_k$, so that likelihood, posterior and score are closed forms.

References:
    | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
    | Sequence Generation (Tang et al., 2025), arXiv 2503.17361
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fkdiff.processes.gaussian import Kernel

__all__ = [
    "GumbelPath",
    "Schedule",
    "Simplex",
    "centre",
    "gumbel",
    "log_likelihood",
    "mixture_score",
    "pull_back",
    "simplex_step",
    "simplex_velocity",
]

Schedule = Literal["consistent", "paper"]
Level: TypeAlias = "float | Tensor"


@dataclass(frozen=True)
class Simplex:
    r"""One transition of a Gumbel-softmax path, from $(\alpha, \sigma)$ to the next pair.

    Arguments:
        alpha: Gain of the token before the transition, not negative.
        sigma: Scale of the Gumbel noise before the transition, positive.
        alpha_next: Gain after it.
        sigma_next: Scale after it.
    """

    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float


@dataclass(frozen=True)
class GumbelPath:
    r"""Schedules of gain and noise over time t in [0, 1], noise to data.

    ============  ==================================  =========================
    schedule      $\alpha_t$                          $\sigma_t$
    ============  ==================================  =========================
    consistent    $s_{\max} t$                        1
    paper         $1 / \tau_t$                        $1 / (\beta \tau_t)$
    ============  ==================================  =========================

    with $\tau_t = \tau_{\max} e^{-\lambda t}$. The published schedule cools token and noise
    alike, so its signal-to-noise ratio never rises and its sampler has a bias that more steps
    don't remove; "consistent" keeps the noise, and its sampler has none.

    Arguments:
        categories: K, at least 2.
        schedule: "consistent" or "paper".
        s_max: Final gain of "consistent"; None is $\log K + 6$, which leaves a share of
            $e^{-6}$ of the labels wrong at the end.
        tau_max: Temperature at t = 0 of "paper".
        decay: $\lambda$ of "paper".
        beta: $\beta$ of "paper".

    Raises:
        ValueError: If a setting is out of range.

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361

    Example:
        >>> path = GumbelPath(20)
        >>> round(path.alpha(1.0), 3), path.sigma(1.0)
        (8.996, 1.0)
        >>> round(GumbelPath(20, "paper").alpha(0.0), 3)
        0.1
    """

    categories: int
    schedule: Schedule = "consistent"
    s_max: float | None = None
    tau_max: float = 10.0
    decay: float = 3.0
    beta: float = 2.0

    def __post_init__(self) -> None:
        if self.categories < 2:
            raise ValueError(f"categories must be at least 2, got {self.categories}")
        if self.schedule not in get_args(Schedule):
            known = ", ".join(get_args(Schedule))
            raise ValueError(f"schedule must be one of {known}, got {self.schedule!r}")
        for name in ("s_max", "tau_max", "decay", "beta"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")

    @property
    def stochastic(self) -> bool:
        """Whether the path has a marginal-preserving stochastic step."""
        return self.schedule == "consistent"

    def alpha(self, t: Level) -> Level:
        r"""Gain $\alpha_t$, shaped as `t`."""
        if self.schedule == "paper":
            return 1 / self._tau(t)
        return (math.log(self.categories) + 6 if self.s_max is None else self.s_max) * t

    def sigma(self, t: Level) -> Level:
        r"""Scale of the noise $\sigma_t$, shaped as `t`."""
        if self.schedule == "paper":
            return 1 / (self.beta * self._tau(t))
        return torch.ones_like(t) if isinstance(t, Tensor) else 1.0

    def rate(self, t: Level) -> Level:
        r"""$\alpha'_t$, shaped as `t`: $s_{\max}$, or $\lambda / \tau_t$."""
        if self.schedule == "paper":
            return self.decay * self.alpha(t)
        end = self.alpha(1.0)
        return torch.full_like(t, float(end)) if isinstance(t, Tensor) else end

    def _tau(self, t: Level) -> Level:
        power = -self.decay * t
        return self.tau_max * (power.exp() if isinstance(power, Tensor) else math.exp(power))

    def interpolate(self, one_hot: Tensor, noise: Tensor, t: Level) -> Tensor:
        r"""$z_t = P[\alpha_t e_k + \sigma_t g]$.

        Arguments:
            one_hot: Tokens as vertices or other points of the simplex, shape (..., K).
            noise: Gumbel(0, 1) noise, same shape.
            t: Time in [0, 1], a number or broadcastable to (..., 1).

        Returns:
            Centred logits, shape (..., K).
        """
        return centre(self.alpha(t) * one_hot + self.sigma(t) * noise)

    def transitions(self, steps: int) -> Iterator[Simplex]:
        """The transitions of a run of equal steps in time.

        Raises:
            ValueError: If there are no steps.

        Example:
            >>> [round(step.alpha_next, 2) for step in GumbelPath(4, s_max=6.0).transitions(3)]
            [2.0, 4.0, 6.0]
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        for i in range(steps):
            here, after = i / steps, (i + 1) / steps
            yield Simplex(
                float(self.alpha(here)),
                float(self.sigma(here)),
                float(self.alpha(after)),
                float(self.sigma(after)),
            )


def centre(z: Tensor) -> Tensor:
    """Subtract the mean over the last axis.

    >>> centre(torch.tensor([1.0, 3.0]))
    tensor([-1.,  1.])
    """
    return z - z.mean(-1, keepdim=True)


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel(0, 1) noise from uniform numbers in (0, 1), by the inverse distribution function.

    >>> gumbel(torch.tensor([0.36787944]))
    tensor([-0.])
    """
    eps = torch.finfo(uniform.dtype).eps  # uniform numbers are multiples of eps / 2, 0 included
    return -(-uniform.clamp(eps / 4, 1 - eps / 2).log()).log()


def log_likelihood(z: Tensor, alpha: Level, sigma: Level) -> Tensor:
    r"""Log-density of $z$ given each token, up to a term that is the same for all tokens.

    $$\ell_k = a - K \log\Big(\sum_i e^{-T z_i} + (e^a - 1) e^{-T z_k}\Big), \quad
    T = 1 / \sigma,\; a = \alpha / \sigma$$

    so that the posterior under a prior $\pi$ is $\mathrm{softmax}(\ell + \log \pi)$. $\ell$ is a
    sufficient statistic of $z$ for its token.

    Arguments:
        z: Centred logits, shape (..., K).
        alpha: Gain, a number or broadcastable to (..., 1).
        sigma: Scale of the noise, positive, likewise.

    Example:
        >>> prior = torch.tensor([0.7, 0.3])
        >>> (log_likelihood(torch.zeros(2), 3.0, 1.0) + prior.log()).softmax(-1)
        tensor([0.7000, 0.3000])
    """
    a = torch.as_tensor(alpha / sigma, dtype=z.dtype, device=z.device)
    scaled = -z / sigma
    extra = scaled + torch.expm1(a).log()
    return a - z.shape[-1] * torch.logaddexp(scaled.logsumexp(-1, keepdim=True), extra)


def mixture_score(z: Tensor, p: Tensor, alpha: Level, sigma: Level) -> Tensor:
    r"""Score $\nabla_z \log q_t(z)$ of the marginal, from the posterior of the token.

    $$-T + T K \sum_k p_k\, \mathrm{softmax}(a\,e_k - T z)$$

    by Fisher's identity, in O(K): with $w = \mathrm{softmax}(-T z)$ and $m = e^a - 1$ the sum is
    $w_i \big[\sum_k p_k / (1 + m w_k) + m\,p_i / (1 + m w_i)\big]$. It sums to 0.

    Arguments:
        z: Centred logits, shape (..., K).
        p: Posterior of the token given the whole state, same shape, sums to 1.
        alpha: Gain, a number or broadcastable to (..., 1).
        sigma: Scale of the noise, positive, likewise.
    """
    return pull_back(z, p, alpha, sigma) - 1 / sigma


def pull_back(z: Tensor, u: Tensor, alpha: Level, sigma: Level) -> Tensor:
    r"""Gradient with respect to the logits of the posterior, carried back to $z$.

    $(J^\top u)_i = \sum_k u_k\, \partial \ell_k / \partial z_i = T K w_i \big[\sum_k u_k /
    (1 + m w_k) + m\,u_i / (1 + m w_i)\big]$ up to its mean, with the letters of `mixture_score`:
    through the likelihood of the token's own position, in O(K). It vanishes where $z$ tells
    nothing of the token. Where u sums to 0 it does.

    Arguments:
        z: Centred logits, shape (..., K).
        u: Gradient, same shape.
        alpha: Gain, a number or broadcastable to (..., 1).
        sigma: Scale of the noise, positive, likewise.
    """
    a = torch.as_tensor(alpha / sigma, dtype=z.dtype, device=z.device)
    w, m = (-z / sigma).softmax(-1), torch.expm1(a)
    share = u / (1 + m * w)
    return z.shape[-1] / sigma * w * (share.sum(-1, keepdim=True) + m * share)


def simplex_velocity(x: Tensor, p: Tensor, rate: Level) -> Tensor:
    r"""Velocity on the simplex, $\alpha'_t\, x \odot (p - \langle p, x \rangle)$; sums to 0.

    In centred logits it is $\alpha'_t P p$, free of $x$.

    Arguments:
        x: Points of the simplex, shape (..., K).
        p: Posterior of the token, same shape.
        rate: $\alpha'_t$, a number or broadcastable to (..., 1).

    Example:
        >>> simplex_velocity(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), 2.0)
        tensor([ 0.5000, -0.5000])
    """
    return rate * x * (p - (p * x).sum(-1, keepdim=True))


def simplex_step(z: Tensor, p: Tensor, path: Simplex, eta: float = 1.0) -> Kernel:
    r"""Step in centred logits that keeps the path's marginals as steps get small.

    $$dz = P[\alpha' p]\,dt + \tfrac{\epsilon^2}{2} \nabla \log q_t(z)\,dt + \epsilon P\,dW,
    \quad \epsilon^2 = \eta^2 \alpha'$$

    by Euler's rule in the gain. `eta` = 0 is the deterministic flow, which also serves paths
    whose noise is cooled; their marginals no stochastic step of this form keeps.

    Arguments:
        z: Centred logits, shape (N, ..., K).
        p: Posterior of the token, same shape.
        path: Levels before and after.
        eta: Noise level, not negative.

    Returns:
        The transition of independent logits; subtract the mean of a draw (`centre`), as
        $P\,dW$ does. Differences of its log-densities at centred points are those of the law in
        the zero-sum space.

    Raises:
        ValueError: If `eta` is negative, or positive where the noise is cooled.
    """
    if not eta >= 0:
        raise ValueError(f"eta must not be negative, got {eta}; 0 is the deterministic flow")
    gain = path.alpha_next - path.alpha
    mean = z + gain * centre(p)
    if eta == 0:
        return Kernel(mean, 0.0)
    if path.sigma != path.sigma_next:
        raise ValueError(
            f"eta must be 0 on a path whose noise is cooled, got {eta:g}; "
            f"use schedule='consistent'"
        )
    drift = eta**2 * gain / 2 * mixture_score(z, p, path.alpha, path.sigma)
    return Kernel(mean + drift, eta * math.sqrt(gain))

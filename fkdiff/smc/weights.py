r"""Effective sample sizes of log-weights, and the scale that keeps one."""

import torch
from torch import Tensor

__all__ = ["bisect_scale", "conditional_ess", "ess"]


def ess(log_w: Tensor) -> Tensor:
    r"""Effective sample size $1 / \sum_k W_k^2$ with $W = \mathrm{softmax}(\log w)$.

    Arguments:
        log_w: Log-weights, shape (P, K), not all $-\infty$ in a row.

    Returns:
        Effective sample size, shape (P,), in [1, K].

    Example:
        >>> ess(torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]]))
        tensor([2.])
    """
    return 1 / log_w.softmax(1).square().sum(1)


def conditional_ess(log_w: Tensor, d: Tensor) -> Tensor:
    r"""Effective sample size of one increment, given the weights before it.

    $K (\sum_k W_k e^{d_k})^2 / \sum_k W_k e^{2 d_k}$ with $W = \mathrm{softmax}(\log w)$: K where
    the increment is constant, whatever the weights.

    Arguments:
        log_w: Log-weights before the increment, shape (P, K).
        d: Increments, shape (P, K); those of particles of weight zero don't matter.

    Returns:
        Conditional effective sample size, shape (P,), in (0, K].

    References:
        | Toward automatic model comparison: an adaptive sequential Monte Carlo approach
        | (Zhou et al., 2016)
        | https://arxiv.org/abs/1303.3123

    Example:
        >>> log_w = torch.tensor([[0.0, -1.0, -2.0, -torch.inf]])
        >>> conditional_ess(log_w, torch.full((1, 4), 7.0))
        tensor([4.])
    """
    log_w = log_w.log_softmax(1)
    dead = log_w.isneginf()
    # Subtracting the largest increment changes nothing and keeps differences of 1e300 exact.
    d = d.masked_fill(dead, -torch.inf)
    d = (d - d.amax(1, keepdim=True)).masked_fill(dead, 0)
    log_ratio = 2 * (log_w + d).logsumexp(1) - (log_w + 2 * d).logsumexp(1)
    return log_w.shape[1] * log_ratio.clamp(max=0).exp()  # at most 1 by Cauchy-Schwarz


def bisect_scale(
    log_w: Tensor,
    direction: Tensor,
    previous: Tensor,
    target: float,
    low: float | Tensor = 0.0,
    *,
    halvings: int = 40,
) -> Tensor:
    r"""Largest scale whose increment keeps the conditional effective sample size.

    $\max \{\phi \in [\mathrm{low}, 1] : \mathrm{CESS}(\phi\, \mathrm{direction} -
    \mathrm{previous}) \ge \mathrm{target} \cdot K\}$ by bisection, `low` where there is none.

    Arguments:
        log_w: Log-weights before the increment, shape (P, K).
        direction: Log-twist at full scale, shape (P, K).
        previous: Log-twist already in the weights, shape (P, K).
        target: Fraction of K to keep, in (0, 1].
        low: Smallest scale, in [0, 1], a number or shape (P,).
        halvings: Bisections: the answer is within $2^{-\mathrm{halvings}}$ of a crossing.

    Returns:
        Scale of each prompt, shape (P,), float64.

    Raises:
        ValueError: If target isn't in (0, 1].

    References:
        | Inference for Lévy-driven stochastic volatility models via adaptive sequential
        | Monte Carlo (Jasra et al., 2011)
        | https://doi.org/10.1111/j.1467-9469.2010.00723.x

    Example:
        >>> log_w = torch.zeros(2, 3, dtype=torch.float64)
        >>> direction = torch.tensor([[0.0, 0.1, 0.2], [0.0, 9.0, 0.0]])
        >>> scale = bisect_scale(log_w, direction, torch.zeros(2, 3), target=0.9)
        >>> [round(s, 3) for s in scale.tolist()]
        [1.0, 0.073]
    """
    if not 0 < target <= 1:
        raise ValueError(f"target must be in (0, 1], got {target}; use 0.9 to lose a tenth a step")
    threshold = target * log_w.shape[1]

    def keeps(scale: Tensor) -> Tensor:
        twist = scale[:, None] * direction
        # A scale of 0 forgets the direction, also where that is -inf.
        return conditional_ess(log_w, twist.where(scale[:, None] > 0, 0) - previous) >= threshold

    bottom = torch.as_tensor(low, dtype=torch.float64).expand(len(log_w))
    top = torch.ones_like(bottom)
    full = keeps(top)
    for _ in range(halvings):
        middle = (bottom + top) / 2
        kept = keeps(middle)
        bottom, top = torch.where(kept, middle, bottom), torch.where(kept, top, middle)
    return torch.where(full, 1.0, bottom)

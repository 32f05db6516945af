r"""Resampling schemes: from normalised weights to numbers of offspring.

Every scheme maps weights $W$ of shape (P, K), float64 with rows that sum to 1, to offspring
counts of shape (P, K), int64 with rows that sum to K. All but `beam` are unbiased,
$E[\mathrm{counts}] = K W$, and none ever chooses a particle of weight zero.

`generator` may be one generator for all rows, a sequence of P generators (row p then draws from
generator p alone, so that its result doesn't depend on the other prompts), or None.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from fkdiff.smc.draws import Generators, cumulative, draw, uniform

__all__ = [
    "SCHEMES",
    "Generators",
    "ancestors",
    "beam",
    "birth_death",
    "multinomial",
    "residual",
    "ssp",
    "stratified",
    "systematic",
]


def multinomial(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""K independent draws: the noisiest scheme, and the baseline.

    $\mathrm{counts} \sim \mathrm{Multinomial}(K, W)$

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Novel approach to nonlinear/non-Gaussian Bayesian state estimation (Gordon et al., 1993)
        | https://doi.org/10.1049/ip-f-2.1993.0015

    Example:
        >>> multinomial(torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
        tensor([[0, 3, 0]])
    """
    draws = torch.full((len(weights), 1), weights.shape[1])
    return draw(weights, draws, generator)


def stratified(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""One uniform draw in each of K strata.

    $\mathrm{counts}_k = N(C_k) - N(C_{k-1})$ with $C = \mathrm{cumsum}(W)$ and $N(c)$ the number
    of points $(j + u_j) / K$ below $c$.

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Monte Carlo filter and smoother for non-Gaussian nonlinear state space models
        | (Kitagawa, 1996)
        | https://doi.org/10.1080/10618600.1996.10474692

    Example:
        >>> stratified(torch.tensor([[0.5, 0.0, 0.5, 0.0]], dtype=torch.float64))
        tensor([[2, 0, 2, 0]])
    """
    particles = weights.shape[1]
    position = cumulative(weights).mul_(particles)
    stratum = position.long()
    u = uniform(len(weights), particles + 1, generator).gather(1, stratum)
    stratum += u < position.frac_()
    return _offspring(stratum)


def systematic(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""One uniform draw shared by all strata: $|\mathrm{counts} - K W| < 1$; the default.

    $\mathrm{counts}_k = \lfloor K C_k + u \rfloor - \lfloor K C_{k-1} + u \rfloor$

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Improved particle filter for nonlinear problems (Carpenter et al., 1999)
        | https://doi.org/10.1049/ip-rsn:19990255

    Example:
        >>> systematic(torch.tensor([[0.25, 0.25, 0.5, 0.0]], dtype=torch.float64))
        tensor([[1, 1, 2, 0]])
    """
    particles = weights.shape[1]
    u = uniform(len(weights), 1, generator)
    # A sum of K and u may round up to K + 1.
    reached = cumulative(weights).mul_(particles).add_(u).long().clamp_(max=particles)
    return _offspring(reached)


def residual(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""The whole part of $K W$ for certain, the rest by multinomial draws.

    $\mathrm{counts} = \lfloor K W \rfloor + \mathrm{Multinomial}(R, K W - \lfloor K W \rfloor)$

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Sequential Monte Carlo methods for dynamic systems (Liu and Chen, 1998)
        | https://doi.org/10.1080/01621459.1998.10473765

    Example:
        >>> residual(torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64))
        tensor([[2, 2, 0, 0]])
    """
    expected = _expected(weights)
    counts = expected.long()
    draws = weights.shape[1] - counts.sum(1, keepdim=True)
    return counts.add_(draw(expected.sub_(counts), draws, generator))


def ssp(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""Srinivasan sampling process: counts are $K W$ rounded up or down, negatively associated.

    The fractional parts of $K W$ meet in duels up a binary tree, as in Srinivasan's own
    construction: a duel settles one of the two at 0 or 1, the other carries what is left.

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Distributions on level-sets with applications to approximation algorithms
        | (Srinivasan, 2001)
        | https://doi.org/10.1109/SFCS.2001.959935
        | Negative association, ordering and convergence of resampling methods
        | (Gerber et al., 2019)
        | https://arxiv.org/abs/1708.02230

    Example:
        >>> ssp(torch.tensor([[0.25, 0.5, 0.0, 0.25]], dtype=torch.float64))
        tensor([[1, 2, 0, 1]])
    """
    expected = _expected(weights)
    counts = expected.long()
    u = uniform(len(weights), weights.shape[1], generator).t().contiguous()
    part, duels = expected.sub_(counts).t().contiguous(), []
    while len(part) > 1:
        pairs = len(part) // 2
        first, second, rest = part.split([pairs, pairs, len(part) - 2 * pairs])
        total = first + second
        up = total >= 1  # one of the two goes up to 1, else one goes down to 0
        settled = up.to(total)
        room = torch.add(total, settled, alpha=-2).abs_()  # 2 - total, else total
        first_carries = room.mul_(u[:pairs]) < (first - settled).abs_()  # 1 - first, else first
        duels.append((up, first_carries))
        part, u = torch.cat([total.sub_(settled), rest]), u[pairs:]
    one = part > 0.5  # what is left is 0 or 1, but for rounding
    for up, first_carries in reversed(duels):
        carried, rest = one.split([len(up), len(one) - len(up)])
        differ = carried ^ up
        first = up ^ (first_carries & differ)
        one = torch.cat([first, first ^ differ, rest])
    return counts + one.t()


def birth_death(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""Light particles die, heavy ones replace them; those near the mean weight stay alone.

    With $r = K W$, a particle survives with probability $\min(1, r)$ and each death is replaced
    by a draw proportional to $(r - 1)_+$.

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: One generator, P generators, or None.

    Returns:
        Offspring counts, shape (P, K), int64.

    References:
        | Feynman-Kac Formulae (Del Moral, 2004), section 2.5
        | Feynman-Kac correctors in diffusion (Skreta et al., 2025)
        | https://arxiv.org/abs/2503.02819

    Example:
        >>> birth_death(torch.tensor([[0.0, 0.25, 0.75, 0.0]], dtype=torch.float64))
        tensor([[0, 1, 3, 0]])
    """
    expected = _expected(weights)
    surplus = (expected - 1).clamp_(min=0)
    none_can_replace = surplus.sum(1, keepdim=True) == 0  # equal weights, up to rounding
    u = uniform(len(weights), weights.shape[1], generator)
    alive = (u < expected) | none_can_replace
    deaths = weights.shape[1] - alive.sum(1, keepdim=True)
    return alive + draw(surplus, deaths, generator)


def beam(weights: Tensor, generator: Generators = None) -> Tensor:
    r"""Greedy beam: the best quarter of the particles, copied evenly. A heuristic.

    Not unbiased: $E[\mathrm{counts}] \ne K W$, so neither log Z nor the target holds after it.

    Arguments:
        weights: Normalised weights, shape (P, K), float64.
        generator: Not used: nothing is drawn.

    Returns:
        Offspring counts, shape (P, K), int64.

    Example:
        >>> beam(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
        tensor([[0, 0, 4, 4, 0, 0, 0, 0]])
    """
    particles = weights.shape[1]
    kept = (weights > 0).sum(1, keepdim=True).clamp(max=max(1, particles // 4))
    order = torch.argsort(weights, dim=1, descending=True, stable=True)
    rank = torch.argsort(order, dim=1)
    return torch.where(rank < kept, particles // kept + (rank < particles % kept), 0)


SCHEMES: Mapping[str, Callable[[Tensor, Generators], Tensor]] = MappingProxyType(
    {
        "multinomial": multinomial,
        "stratified": stratified,
        "systematic": systematic,
        "residual": residual,
        "ssp": ssp,
        "birth_death": birth_death,
        "beam": beam,
    }
)


def ancestors(counts: Tensor, *, in_slots: bool = True) -> Tensor:
    """Parent row of every slot, with survivors kept in their own slots.

    The slots of particles without offspring, in order, take the extra copies of the others.

    Arguments:
        counts: Offspring counts, shape (P, K), int64, rows that sum to K.
        in_slots: Keep survivors in their slots; otherwise all parents in ascending order.

    Returns:
        Global prompt-major rows, shape (P K,), int64.

    Example:
        >>> ancestors(torch.tensor([[0, 1, 2], [3, 0, 0]]))
        tensor([2, 1, 2, 3, 3, 3])
        >>> ancestors(torch.tensor([[0, 1, 2], [3, 0, 0]]), in_slots=False)
        tensor([1, 2, 2, 3, 3, 3])
    """
    flat = counts.reshape(-1)
    if not in_slots:
        return _repeat(flat)
    # Prompt by prompt there are as many dead slots as extra copies: none crosses to another.
    dead, copies = _repeat(flat == 0), _repeat((flat - 1).clamp_(min=0))
    return torch.arange(len(flat)).scatter_(0, dead, copies)


def _repeat(times: Tensor) -> Tensor:
    """Each index `times` times, as `torch.repeat_interleave` but in half the time."""
    ends = times.cumsum(0)
    return ends.bincount(minlength=1 + int(ends[-1]))[:-1].cumsum_(0)


def _expected(weights: Tensor) -> Tensor:
    """Expected offspring K W, a hair too large: in floating point, 49 times 1/49 is below 1."""
    return weights * (weights.shape[1] * (1 + 1e-12) / weights.sum(1, keepdim=True))


def _offspring(reached: Tensor) -> Tensor:
    """Counts from cumulative counts."""
    counts = torch.empty_like(reached)
    counts[:, 0] = reached[:, 0]
    torch.sub(reached[:, 1:], reached[:, :-1], out=counts[:, 1:])
    return counts

r"""Resampling schemes: from normalised weights to numbers of offspring.

Every scheme maps weights $W$ of shape (P, K), float64 with rows that sum to 1, to offspring
counts of shape (P, K), int64 with rows that sum to K. All but `beam` are unbiased,
$E[\mathrm{counts}] = K W$, and none ever chooses a particle of weight zero.

`generator` may be one generator for all rows, a sequence of P generators (row p then draws from
generator p alone, so that its result doesn't depend on the other prompts), or None.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

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

Generators = torch.Generator | Sequence[torch.Generator] | None


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
    return _draw(weights, draws, generator)


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
    u = _uniform(len(weights), particles + 1, generator)
    position = _cumulative(weights).mul_(particles)
    reached = torch.empty_like(position, dtype=torch.int64)
    for block, result in _blocks(position, reached):
        stratum = block.long()
        torch.add(stratum, u.gather(1, stratum) < block.frac_(), out=result)
    return _offspring(reached)


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
    u = _uniform(len(weights), 1, generator)
    # A sum of K and u may round up to K + 1.
    reached = _cumulative(weights).mul_(particles).add_(u).long().clamp_(max=particles)
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
    return counts + _draw(expected - counts, draws, generator)


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
    part = expected.sub_(counts)
    owner = torch.arange(weights.shape[1]).expand_as(counts)
    u = _uniform(len(weights), max(weights.shape[1] - 1, 1), generator)
    while part.shape[1] > 1:
        pairs = part.shape[1] // 2
        odd = slice(2 * pairs, None)
        first, second = part[:, 0 : 2 * pairs : 2], part[:, 1 : 2 * pairs : 2]
        total = first + second
        up = total >= 1  # one of the two goes up to 1, else one goes down to 0
        room = torch.where(up, 2 - total, total)
        first_carries = u[:, :pairs] * room < torch.where(up, 1 - first, first)
        u = u[:, pairs:]
        left, right = owner[:, 0 : 2 * pairs : 2], owner[:, 1 : 2 * pairs : 2]
        counts.scatter_add_(1, torch.where(first_carries, right, left), up.long())
        owner = torch.cat([torch.where(first_carries, left, right), owner[:, odd]], 1)
        part = torch.cat([total.sub_(up.to(total)), part[:, odd]], 1)
    return counts.scatter_add_(1, owner, part.round().long())  # what is left is 0 or 1


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
    u = _uniform(len(weights), weights.shape[1], generator)
    alive = (u < expected) | none_can_replace
    deaths = weights.shape[1] - alive.sum(1, keepdim=True)
    return alive + _draw(surplus, deaths, generator)


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


def ancestors(counts: Tensor) -> Tensor:
    """Parent row of every slot, with survivors kept in their own slots.

    The slots of particles without offspring, in order, take the extra copies of the others.

    Arguments:
        counts: Offspring counts, shape (P, K), int64, rows that sum to K.

    Returns:
        Global prompt-major rows, shape (P K,), int64.

    Example:
        >>> ancestors(torch.tensor([[0, 1, 2], [3, 0, 0]]))
        tensor([2, 1, 2, 3, 3, 3])
    """
    flat = counts.flatten()
    # Prompt by prompt there are as many dead slots as extra copies: none crosses to another.
    dead, copies = _repeat(flat == 0), _repeat((flat - 1).clamp_(min=0))
    return torch.arange(len(flat)).scatter_(0, dead, copies)


def _repeat(times: Tensor) -> Tensor:
    """Each index `times` times, as `torch.repeat_interleave` does in twice the time."""
    ends = times.cumsum(0)
    return ends.bincount(minlength=1 + int(ends[-1]))[:-1].cumsum(0)


def _uniform(rows: int, columns: int, generator: Generators) -> Tensor:
    """Uniform numbers in [0, 1), shape (rows, columns), float64."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    return torch.stack([torch.rand(columns, generator=g, dtype=torch.float64) for g in generator])


def _bits(rows: int, columns: int, generator: Generators) -> Tensor:
    """Uniform integers of 63 bits, shape (rows, columns), int64."""
    bits = torch.empty(rows, columns, dtype=torch.int64)
    if generator is None or isinstance(generator, torch.Generator):
        return bits.random_(generator=generator)
    for row, own in zip(bits, generator, strict=True):
        row.random_(generator=own)
    return bits


def _expected(weights: Tensor) -> Tensor:
    """Expected offspring K W, a hair too large: in floating point, 49 times 1/49 is below 1."""
    return weights * (weights.shape[1] * (1 + 1e-12) / weights.sum(1, keepdim=True))


def _cumulative(weights: Tensor) -> Tensor:
    """Cumulative weights that end at exactly 1; a zero weight repeats its neighbour's bits."""
    total = weights.cumsum(1)
    return total.div_(total[:, -1:].clone().clamp_(min=torch.finfo(total.dtype).tiny))


def _offspring(reached: Tensor) -> Tensor:
    """Counts from cumulative counts."""
    counts = torch.empty_like(reached)
    counts[:, 0] = reached[:, 0]
    torch.sub(reached[:, 1:], reached[:, :-1], out=counts[:, 1:])
    return counts


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Columns of tensors in turn: fresh memory for large temporaries costs more than sums."""
    width = max(1, 2**17 // len(tensors[0]))
    return zip(*(tensor.split(width, 1) for tensor in tensors), strict=True)


def _draw(weights: Tensor, draws: Tensor, generator: Generators) -> Tensor:
    """Counts of `draws` (P, 1) independent draws in proportion to weights (P, K).

    Neither sorts nor searches. Draws fall into equal strata of [0, 1]; those below a cumulative
    weight are the draws of all lower strata and, looked at one by one, some of its own stratum.
    """
    shared = generator is None or isinstance(generator, torch.Generator)
    most = max(1, int(draws.max())) if shared else weights.shape[1]
    before, u = _strata(draws, most, generator)
    edge = _cumulative(weights).mul_(before.shape[1] - 2)
    reached = torch.empty_like(edge, dtype=torch.int64)
    for block, result in _blocks(edge, reached):
        result.copy_(_below(block, before, u))
    return _offspring(reached)


def _strata(draws: Tensor, most: int, generator: Generators) -> tuple[Tensor, Tensor]:
    """Uniform draws in [0, 1): how many before each of S strata, and their places within.

    Of 63 random bits the low ones choose the stratum, the others the place.

    Returns:
        Draws in the strata before each, shape (P, S + 2), the last with those that a row doesn't
        draw; and uniform numbers in the order of the strata, shape (P, most + 1).
    """
    power = (most - 1).bit_length()
    bits = _bits(len(draws), most, generator)
    u = torch.empty(len(draws), most + 1, dtype=torch.float64)
    u[:, most] = 1  # looked at after the last draw
    for block, place in _blocks(bits, u[:, :most]):
        torch.mul(block >> power, 2.0 ** (power - 63), out=place)
    bits &= 2**power - 1
    if bool((draws < most).any()):
        bits.masked_fill_(torch.arange(most) >= draws, 2**power)
    bits += 1 + (2**power + 2) * torch.arange(len(draws))[:, None]
    before = bits.flatten().bincount(minlength=len(draws) * (2**power + 2)).view(len(draws), -1)
    return before.cumsum_(1), u


def _below(edge: Tensor, before: Tensor, u: Tensor) -> Tensor:
    """Number of draws below each edge (P, k), a cumulative weight times S; see `_strata`."""
    stratum = edge.long()
    part = edge.frac()
    reached = before.gather(1, stratum)
    left = before.gather(1, stratum.add_(1)).sub_(reached)
    hit = (u.gather(1, reached) < part) & (left > 0)
    todo = _repeat((left > 1).flatten())
    place = reached.flatten().gather(0, todo) + u.shape[1] * (todo // edge.shape[1])
    part, left, u = part.flatten().gather(0, todo), left.flatten().gather(0, todo), u.view(-1)
    count = reached.add_(hit).view(-1)
    while len(todo):
        count.scatter_add_(0, todo, (u.gather(0, place.add_(1)) < part).long())
        more = _repeat(left.sub_(1) > 1)
        todo, place, part, left = (t.gather(0, more) for t in (todo, place, part, left))
    return reached

"""Random draws: uniform numbers of given streams, and multinomial counts in linear time."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Generators", "cumulative", "draw", "uniform"]

MARGIN = 5.0
"""Standard deviations by which Poisson counts stay below the number of draws they stand for."""

HEAVY = 8.0
"""Poisson rate above which counts aren't drawn by inversion."""

FEW = 2**12
"""Particles up to which draws are searched for one by one."""

BLOCK = 2**19
"""Particles whose counts are drawn together."""

TINY = torch.finfo(torch.float64).tiny

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for all rows, one for each row, or torch's default."""


def _streams(rows: int, generator: Generators) -> list[tuple[slice, torch.Generator | None]]:
    """Rows and the generator that they draw from."""
    if generator is None or isinstance(generator, torch.Generator):
        return [(slice(rows), generator)]
    return [(slice(row, row + 1), own) for row, own in enumerate(generator)]


def uniform(rows: int, columns: int, generator: Generators) -> Tensor:
    """Uniform numbers in [0, 1), shape (rows, columns), float64.

    Example:
        >>> uniform(2, 3, [torch.Generator().manual_seed(s) for s in (0, 0)]).unique().shape
        torch.Size([3])
    """
    u = torch.empty(rows, columns, dtype=torch.float64)
    for part, own in _streams(rows, generator):
        if u[part].numel() < 2**16:
            u[part].uniform_(generator=own)
        else:  # numpy draws as many in less than half the time
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=own))
            np.random.Generator(np.random.SFC64(seed)).random(out=u[part].numpy())
    return u


def cumulative(weights: Tensor) -> Tensor:
    """Cumulative weights that end at exactly 1; a zero weight repeats its neighbour's bits.

    Example:
        >>> cumulative(torch.tensor([[0.0, 1.0, 3.0, 0.0]])).tolist()
        [[0.0, 0.25, 1.0, 1.0]]
    """
    total = weights.cumsum(1)
    return total.div_(total[:, -1:].clone().clamp_(min=TINY))


def draw(weights: Tensor, draws: Tensor, generator: Generators) -> Tensor:
    """Counts of `draws` (P, 1) independent draws in proportion to weights (P, K).

    Few draws are searched for among the cumulative weights. For many, independent Poisson counts
    are multinomial given their sum: their rates sum to a little less than `draws`, and only the
    draws that are missing are searched for. Nothing is sorted.

    Arguments:
        weights: Weights, shape (P, K), float64, not normalised; all zero where nothing is drawn.
        draws: Number of draws of each row, shape (P, 1), int64, at most K.
        generator: One generator, P generators, or None.

    Returns:
        Counts, shape (P, K), int64, rows that sum to `draws`.

    Example:
        >>> draw(torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64), torch.tensor([[2]]), None)
        tensor([[0, 2, 0]])
    """
    if weights.shape[1] <= FEW:
        return _searched(weights, draws, generator)
    sure = (draws - MARGIN * draws.sqrt()).clamp_(min=0)
    counts = _poisson(weights * (sure / weights.sum(1, keepdim=True).clamp_(min=TINY)), generator)
    missing = draws - counts.sum(1, keepdim=True)
    for row in (missing < 0).any(1).nonzero().flatten().tolist():  # one in three million
        own = generator[row : row + 1] if isinstance(generator, Sequence) else generator
        counts[row] = draw(weights[row : row + 1], draws[row : row + 1], own)
        missing[row] = 0
    return counts.add_(_searched(weights, missing, generator))


def _searched(weights: Tensor, draws: Tensor, generator: Generators) -> Tensor:
    """Counts of draws one by one, each found by bisection among the cumulative weights."""
    most = weights.shape[1] if isinstance(generator, Sequence) else int(draws.max())
    u = uniform(len(weights), most, generator)
    chosen = torch.searchsorted(cumulative(weights), u, right=True)
    one = (torch.arange(most) < draws).long()
    counts = torch.zeros(weights.shape, dtype=torch.int64)
    return counts.scatter_add_(1, chosen.clamp_(max=weights.shape[1] - 1), one)


def _poisson(rate: Tensor, generator: Generators) -> Tensor:
    """Independent Poisson counts, shape (P, K), int64.

    By inversion: a count is how many terms of its law's sum a uniform number exceeds. Heavy
    rates, which would take many terms, go to torch's own sampler.
    """
    left = uniform(rate.shape[0], rate.shape[1], generator)
    # In blocks, and counts in the place of what is left: fresh memory for large temporaries
    # costs more than the arithmetic.
    counts = left.view(torch.int64)
    flat = counts.view(-1), left.view(-1), rate.view(-1)
    blocks = zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)
    tails = [_two_terms(number * BLOCK, *block) for number, block in enumerate(blocks)]
    todo, left, term, light = (torch.cat(tail) for tail in zip(*tails, strict=True))
    left.masked_fill_(light > HEAVY, -1)  # counted below
    for k in range(2, 64):  # no law of rate 8 has more, in double precision
        more = left.sub_(term.mul_(light).div_(k)) >= 0
        flat[0].index_add_(0, todo, more.long())
        if k % 4 == 0:
            more = more.nonzero().squeeze(1)
            todo, left, term, light = (t.gather(0, more) for t in (todo, left, term, light))
            if not len(todo):
                break
    heavy = rate > HEAVY
    if bool(heavy.any()):
        for part, own in _streams(len(rate), generator):
            todo = heavy[part].view(-1).nonzero().squeeze(1)
            drawn = torch.poisson(rate[part].view(-1).gather(0, todo), generator=own)
            counts[part].view(-1).scatter_(0, todo, drawn.long())
    return counts


def _two_terms(start: int, counts: Tensor, left: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
    """Write counts up to 2; what goes on: its places, what is left, the last term, the rate."""
    term = rate.neg().exp_()
    some = left.sub_(term) >= 0
    more = left.sub_(term.mul_(rate)) >= 0
    todo = more.nonzero().squeeze(1)
    tail = todo + start, left.gather(0, todo), term.gather(0, todo), rate.gather(0, todo)
    counts.copy_(some).add_(more)  # last: they may lie where `left` was
    return tail

"""What to do where memory runs out: less at once, the same random numbers."""

import gc
import logging
import os
import re
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Batched", "Limit", "in_parts", "peak_memory", "ran_out", "within_memory"]

_logger = logging.getLogger(__name__)
_Made = TypeVar("_Made")


class Batched(Protocol):
    """Whoever works through its rows in micro-batches."""

    micro_batch: int | None


@dataclass
class Limit:
    """Holds how many rows at once memory is enough for, None for all."""

    micro_batch: int | None = None


def peak_memory() -> int:
    """Bytes that this process has taken at most, on its GPU if it has one.

    >>> peak_memory() > 2**20
    True
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if os.uname().sysname == "Darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out: Python says so in one way, torch in three.

    >>> ran_out(MemoryError()), ran_out(RuntimeError("shapes differ"))
    (True, False)
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and bool(re.search(r"out of memory|can't allocate memory", str(error)))
    )


def in_parts(holder: Batched, rows: int, call: Callable[[slice], Tensor]) -> Tensor:
    """Give a tensor (N, *), made of some of its rows at a time, fewer where memory runs out.

    Arguments:
        holder: Says how many rows; see `within_memory`.
        rows: N, at least 1.
        call: Takes the rows, and gives their part (n, *); draws no random numbers.

    Raises:
        Exception: Whatever `call` raises, also if memory runs out for one row.

    Example:
        >>> in_parts(Limit(3), 7, lambda rows: torch.full((rows.stop - rows.start,), rows.start))
        tensor([0, 0, 0, 3, 3, 3, 6])
    """

    def few(size: int) -> Tensor:
        starts = range(0, rows, size)
        parts = [call(slice(start, min(start + size, rows))) for start in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return within_memory(holder, rows, few)


def within_memory(
    holder: Batched, rows: int, call: Callable[[int], _Made], again: bool = True
) -> _Made:
    """Call with the micro-batch, and with half of it as long as memory runs out.

    What is called draws no random numbers, so that a smaller micro-batch changes none.

    Arguments:
        holder: Its `micro_batch` is lowered for the rest of the run.
        rows: N, what None stands for.
        call: Takes the number of rows at once, from 1 to N.
        again: Whether a call that failed halfway may be repeated.

    Raises:
        Exception: Whatever `call` raises, also if memory runs out for one row.
    """
    while True:
        size = min(holder.micro_batch or rows, rows)
        try:
            return call(size)
        except Exception as error:
            if size <= 1 or not again or not ran_out(error):
                raise
        # Out of the handler: nothing holds on to what the failed call had made.
        holder.micro_batch = size // 2
        _logger.warning(
            "out of memory with %d particles at once; going on with micro_batch=%d",
            size,
            size // 2,
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

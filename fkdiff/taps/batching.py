"""A network's call by its rows: some of them at a time, and the outputs put together."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError

__all__ = ["Axes", "Pick", "batch_of", "chunked", "cuts", "sliced"]

Pick: TypeAlias = Callable[[Any, Tensor], Any]
"""(a tensor or list, rows) -> those rows of it."""

Axes: TypeAlias = Callable[[tuple[str | int, ...], Any, int], Pick | None]
"""(path in the arguments, a tensor or list there, rows of the call) -> what takes rows of it."""

# Position tables have no batch axis; a sequence length that equals the batch must not split them,
# where there is no call of another number of rows to compare with.
_SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "rotary_emb", "guidance_scale"})

# Z-Image's network takes and returns lists with one tensor a row.
_LISTED = frozenset({"x", "cap_feats"})


def batch_of(bound: inspect.BoundArguments) -> int:
    """Leading axis of a call's first tensor.

    Raises:
        TapError: If it has none.
    """
    for value in bound.arguments.values():
        if isinstance(value, Tensor) and value.ndim > 0:
            return len(value)
    raise TapError("the denoiser was called without a tensor; it can't be steered")


def sliced(
    bound: inspect.BoundArguments, batch: int, start: int, size: int, axes: Axes | None = None
) -> inspect.BoundArguments:
    """Rows `start` to `start + size` of everything that has rows.

    Arguments:
        bound: Bound arguments of a network.
        batch: Their rows in all.
        start: First row.
        size: Number of rows.
        axes: Finds the rows; without it they are what is as long as the batch.
    """
    return _picked(bound, batch, torch.arange(start, start + size), axes or _leading)


def _picked(
    bound: inspect.BoundArguments, batch: int, rows: Tensor, axes: Axes
) -> inspect.BoundArguments:
    def cut(value: Any, path: tuple[str | int, ...] = ()) -> Any:
        if isinstance(value, dict):
            return {k: cut(v, (*path, k)) for k, v in value.items()}
        if not isinstance(value, Tensor | list | tuple):
            return value
        pick = axes(path, value, batch)
        if pick is not None:
            return pick(value, rows)
        if isinstance(value, Tensor):
            return value
        return type(value)(cut(v, (*path, i)) for i, v in enumerate(value))

    return inspect.BoundArguments(bound.signature, cut(dict(bound.arguments)))


def _leading(path: tuple[str | int, ...], value: Any, batch: int) -> Pick | None:
    """Rows of what is as long as the batch."""
    if isinstance(value, Tensor):
        mine = value.ndim > 0 and len(value) == batch and not _SHARED & {*path}
        return (lambda v, rows: v[rows.to(v.device)]) if mine else None
    if path[-1] in _LISTED:
        return lambda values, rows: [values[row] for row in rows.tolist()]
    return None


def cuts(batch: int, shards: Shards, micro_batch: int | None) -> list[Tensor]:
    """Rows of a network's call by micro-batch: those of the same particles in all its halves.

    So the rows of a call are the same ones at any number of processes, which its rounding asks.

    Arguments:
        batch: Rows of the call; the particles here once, or several times one after another.
        shards: The particles here.
        micro_batch: Particles in each, None for all.
    """
    rows = len(shards.rows)
    if batch % rows:  # not ours to understand
        return list(torch.arange(batch).split(micro_batch or batch))
    if micro_batch is None or micro_batch >= rows:
        return [torch.arange(batch)]
    parts = shards.batches(micro_batch)
    return [torch.cat([part + i * rows for i in range(batch // rows)]) for part in parts]


def chunked(
    call: Callable[..., Any],
    bound: inspect.BoundArguments,
    parts: Sequence[Tensor],
    axes: Axes | None = None,
) -> Any:
    """Call with some rows at a time and put the outputs in the places of their rows.

    Arguments:
        call: The network.
        bound: Its arguments.
        parts: Rows of each call.
        axes: Finds the rows in the arguments; see `sliced`.

    Raises:
        TapError: If an output has something else than a row for each.
    """
    batch = batch_of(bound)
    given = [_picked(bound, batch, part, axes or _leading) for part in parts]
    outputs = [call(*part.args, **part.kwargs) for part in given]
    return _joined(outputs, torch.cat(list(parts)).argsort())


def _joined(outputs: list[Any], order: Tensor) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        whole = torch.cat(outputs)
        if len(whole) != len(order):
            raise TapError(
                f"micro_batch must be left out here: the network returns {tuple(whole.shape)} for "
                f"{len(order)} rows"
            )
        return whole[order.to(first.device)]
    if isinstance(first, dict):
        fields = {k: _joined([o[k] for o in outputs], order) for k in first}
        return type(first)(**fields)
    if isinstance(first, list):
        rows = [row for rows in outputs for row in rows]
        return [rows[place] for place in order.tolist()]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts), order) for parts in zip(*outputs, strict=True))
    return first

"""A network's call by its rows: some of them at a time, and the outputs put together."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError

__all__ = ["batch_of", "chunked", "cuts", "sliced"]

# Position tables have no batch axis; a sequence length that equals the batch must not split them.
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
    bound: inspect.BoundArguments, batch: int, start: int, size: int
) -> inspect.BoundArguments:
    """Rows `start` to `start + size` of every batch-leading argument.

    Arguments:
        bound: Bound arguments of a network.
        batch: Their rows in all.
        start: First row.
        size: Number of rows.
    """
    return _picked(bound, batch, torch.arange(start, start + size))


def _picked(bound: inspect.BoundArguments, batch: int, rows: Tensor) -> inspect.BoundArguments:
    def cut(value: Any, name: str = "") -> Any:
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch:
            return value[rows.to(value.device)]
        if name in _LISTED and isinstance(value, list):
            return [value[row] for row in rows.tolist()]
        if isinstance(value, dict):
            return {k: v if k in _SHARED else cut(v, k) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(cut(v) for v in value)
        return value

    return inspect.BoundArguments(bound.signature, cut(dict(bound.arguments)))


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
    call: Callable[..., Any], bound: inspect.BoundArguments, parts: Sequence[Tensor]
) -> Any:
    """Call with some rows at a time and put the outputs in the places of their rows."""
    batch = batch_of(bound)
    given = [_picked(bound, batch, part) for part in parts]
    outputs = [call(*part.args, **part.kwargs) for part in given]
    return _joined(outputs, torch.cat(list(parts)).argsort())


def _joined(outputs: list[Any], order: Tensor) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)[order.to(first.device)]
    if isinstance(first, dict):
        fields = {k: _joined([o[k] for o in outputs], order) for k in first}
        return type(first)(**fields)
    if isinstance(first, list):
        rows = [row for rows in outputs for row in rows]
        return [rows[place] for place in order.tolist()]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts), order) for parts in zip(*outputs, strict=True))
    return first

"""Networks that feed a denoiser, micro-batched like it: ControlNets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fkdiff.processes.shards import Shards
from fkdiff.taps.batching import batch_of, chunked, cuts
from fkdiff.taps.denoiser import binder_of, calling
from fkdiff.terms.memory import Batched, within_memory

__all__ = ["chunked_feeding"]


@contextmanager
def chunked_feeding(pipe: Any, shards: Shards, holder: Batched) -> Iterator[None]:
    """Let a pipeline's ControlNet see a micro-batch at a time while the block lasts.

    What it returns is no prediction, and isn't counted among the denoiser's evaluations.

    Arguments:
        pipe: A pipeline, with or without a `controlnet`.
        shards: The particles here.
        holder: Says how many particles a call has, None for all; less where memory runs out.
    """
    module = getattr(pipe, "controlnet", None)
    if not isinstance(module, torch.nn.Module):
        yield
        return
    base, bind = type(module), binder_of(module)

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = bind(args, kwargs)

        def few(size: int) -> Any:
            parts = cuts(batch_of(bound), shards, size)
            if len(parts) == 1:
                return base.__call__(self, *args, **kwargs)
            levels = lambda *a, **k: _levels(base.__call__(self, *a, **k))  # noqa: E731
            return chunked(levels, bound, parts)

        return within_memory(holder, len(shards.rows), few)

    with calling(module, call):
        yield


def _levels(out: Any) -> Any:
    """Residuals as a tuple: its tensors are one a level, where a list would be one a row."""
    if isinstance(out, dict):
        return type(out)(**{k: tuple(v) if isinstance(v, list) else v for k, v in out.items()})
    return tuple(tuple(v) if isinstance(v, list) else v for v in out)

"""Networks that feed a denoiser, micro-batched like it: ControlNets."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fkdiff.processes.shards import Shards
from fkdiff.taps.denoiser import batch_of, calling, chunked, cuts

__all__ = ["chunked_feeding"]


@contextmanager
def chunked_feeding(pipe: Any, shards: Shards, micro_batch: int | None) -> Iterator[None]:
    """Let a pipeline's ControlNet see `micro_batch` particles at a time while the block lasts.

    What it returns is no prediction, and isn't counted among the denoiser's evaluations.

    Arguments:
        pipe: A pipeline, with or without a `controlnet`.
        shards: The particles here.
        micro_batch: Particles per call, None for all at once.
    """
    module = getattr(pipe, "controlnet", None)
    if micro_batch is None or not isinstance(module, torch.nn.Module):
        yield
        return
    base = type(module)
    signature = inspect.signature(getattr(module, "_orig_mod", module).forward)

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        parts = cuts(batch_of(bound), shards, micro_batch)
        if len(parts) == 1:
            return base.__call__(self, *args, **kwargs)
        return chunked(lambda *a, **k: _levels(base.__call__(self, *a, **k)), bound, parts)

    with calling(module, call):
        yield


def _levels(out: Any) -> Any:
    """Residuals as a tuple: its tensors are one a level, where a list would be one a row."""
    if isinstance(out, dict):
        return type(out)(**{k: tuple(v) if isinstance(v, list) else v for k, v in out.items()})
    return tuple(tuple(v) if isinstance(v, list) else v for v in out)

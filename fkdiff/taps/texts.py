"""Text encoders, given the texts of one prompt at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from fkdiff.taps.batching import batch_of, chunked
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.denoiser import binder_of, calling

__all__ = ["texts_apart"]


@contextmanager
def texts_apart(pipe: Any, prompts: int) -> Iterator[None]:
    """Let a pipeline's text encoders see as many rows as for one prompt while the block lasts.

    Rounding depends on the rows of a call, so that a prompt's embeddings are then the bits of
    those that it has alone, where texts are padded to the same length.

    Arguments:
        pipe: A pipeline, with or without text encoders.
        prompts: P; calls whose rows aren't a multiple of it are left as they are.
    """
    with ExitStack() as stack:
        for name, module in getattr(pipe, "components", {}).items():
            if name.startswith("text_encoder") and isinstance(module, torch.nn.Module):
                stack.enter_context(_apart(module, prompts))
        yield


@contextmanager
def _apart(module: torch.nn.Module, prompts: int) -> Iterator[None]:
    base, bind = type(module), binder_of(module)

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        def whole(*a: Any, **k: Any) -> Any:
            return base.__call__(self, *a, **k)

        bound = bind(args, kwargs)
        try:
            batch = batch_of(bound)
        except TapError:
            return whole(*args, **kwargs)
        if batch % prompts:
            return whole(*args, **kwargs)
        # Of texts and negative texts one after another, each prompt takes its own.
        return chunked(whole, bound, list(torch.arange(batch).reshape(-1, prompts).T))

    with calling(module, call):
        yield

"""The denoiser tap: reads network outputs, micro-batches, splits a guided pair into experts."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from fkdiff.taps.coefficients import TapError
from fkdiff.terms.cost import Cost
from fkdiff.terms.step import Expert

__all__ = ["DENOISERS", "calling", "chunked", "split_guidance", "tapped_denoiser"]

DENOISERS = ("unet", "transformer", "transformer_2")

# Position tables have no batch axis; a sequence length that equals the batch must not split them.
_SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "rotary_emb", "guidance_scale"})

# Z-Image's network takes and returns lists with one tensor a row.
_LISTED = frozenset({"x", "cap_feats"})


@contextmanager
def tapped_denoiser(
    pipe: Any,
    rows: int,
    micro_batch: int | None,
    cost: Cost,
    on_output: Callable[[Any], None],
) -> Iterator[None]:
    """Watch and micro-batch the pipeline's networks while the block lasts.

    Each network gets a one-off subclass overriding `__call__`, which stays outside compiled
    graphs and offloading hooks.

    Arguments:
        pipe: A pipeline with a `unet` or `transformer`.
        rows: N, the number of particles in all.
        micro_batch: Particles per network call, None for all at once.
        cost: Counts rows and seconds.
        on_output: Gets what each call returned.
    """
    with ExitStack() as stack:
        for name in DENOISERS:
            module = getattr(pipe, name, None)
            if isinstance(module, torch.nn.Module):
                stack.enter_context(_tapped(module, rows, micro_batch, cost, on_output))
        yield


@contextmanager
def _tapped(
    module: torch.nn.Module,
    rows: int,
    micro_batch: int | None,
    cost: Cost,
    on_output: Callable[[Any], None],
) -> Iterator[None]:
    base = type(module)
    signature = inspect.signature(getattr(module, "_orig_mod", module).forward)

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        batch = len(_first_tensor(bound.arguments))
        with cost.time("denoise"):
            size = batch if micro_batch is None else micro_batch * max(1, batch // rows)
            if size >= batch:
                out = base.__call__(self, *args, **kwargs)
            else:
                out = chunked(lambda *a, **k: base.__call__(self, *a, **k), bound, batch, size)
        cost.denoiser_evaluations += batch
        on_output(out)
        return out

    with calling(module, call):
        yield


@contextmanager
def calling(module: torch.nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Give one module another `__call__` while the block lasts; its class keeps its name."""
    base = type(module)
    module.__class__ = type(
        base.__name__, (base,), {"__call__": call, "__module__": base.__module__}
    )
    try:
        yield
    finally:
        module.__class__ = base


def _first_tensor(arguments: dict[str, Any]) -> Tensor:
    for value in arguments.values():
        if isinstance(value, Tensor) and value.ndim > 0:
            return value
    raise TapError("the denoiser was called without a tensor; it can't be steered")


def chunked(call: Callable[..., Any], bound: inspect.BoundArguments, batch: int, size: int) -> Any:
    """Call with slices of every batch-leading argument and join the outputs.

    Arguments:
        call: The network.
        bound: Its bound arguments.
        batch: Rows in all.
        size: Rows per call.
    """

    def cut(value: Any, start: int, name: str = "") -> Any:
        leading = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
        if leading or (name in _LISTED and isinstance(value, list)):
            return value[start : start + size]
        if isinstance(value, dict):
            return {k: v if k in _SHARED else cut(v, start, k) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(cut(v, start) for v in value)
        return value

    outputs = []
    for start in range(0, batch, size):
        part = cut(dict(bound.arguments), start)
        piece = inspect.BoundArguments(bound.signature, part)  # pyright: ignore[reportArgumentType]
        outputs.append(call(*piece.args, **piece.kwargs))
    return _joined(outputs)


def _joined(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(outputs)
    if isinstance(first, dict):
        fields = {k: _joined([o[k] for o in outputs]) for k in first}
        return type(first)(**fields)
    if isinstance(first, list):
        return [row for rows in outputs for row in rows]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*outputs, strict=True))
    return first


def split_guidance(outputs: list[Tensor], mixed: Tensor, rows: int) -> tuple[Expert, ...]:
    r"""Conditional and unconditional experts behind a guided output, verified by a fit.

    Solves $\pm m = h_2 + a (h_1 - h_2)$ by least squares, as some pipelines turn the sign of what
    the network predicts; the half with the coefficient above 1 is the conditional one (the second
    half where guidance is between 0 and 1, as most pipelines order it).

    Arguments:
        outputs: What the networks returned during the step, (rows, *) or (2 * rows, *) each.
        mixed: What the pipeline gave to the scheduler, shape (rows, *).
        rows: N.

    Raises:
        TapError: If the mixture isn't linear in two halves (guidance rescale, APG, PAG, ...).
    """
    mixed = mixed[:rows]
    halves = [
        h[:, : mixed.shape[1]].reshape(mixed.shape) for out in outputs for h in out.split(rows)
    ]
    if len(halves) not in (1, 2):
        raise TapError(f"expected one or two predictions a particle, got {len(halves)}")
    first, second = halves[0], halves[-1]
    fits = [(*_fit(first, second, sign * mixed), sign) for sign in (1, -1)]
    residual, a, sign = min(fits, key=lambda fit: fit[0])
    if residual > 1e-3:
        raise TapError(
            f"the guided prediction isn't a linear mixture of the network's outputs (residual "
            f"{residual:.1e}); turn off guidance_rescale, PAG or other modified guidance"
        )
    first, second = sign * first, sign * second
    if a is None:
        return (Expert("cond", 1.0, first),)
    cond, uncond, w = (first, second, a) if a > 1 else (second, first, 1 - a)
    return Expert("uncond", 1 - w, uncond), Expert("cond", w, cond)


def _fit(first: Tensor, second: Tensor, mixed: Tensor) -> tuple[float, float | None]:
    """Relative residual of m = second + a (first - second), and a; None where the two agree."""
    d, m = (first - second).double(), (mixed - second).double()
    a = float((d * m).sum() / d.square().sum()) if d.any() else None
    left = m if a is None else m - a * d
    return float(left.norm() / mixed.double().norm().clamp(min=1e-30)), a

"""The denoiser tap: reads network outputs, micro-batches, splits a guided pair into experts."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import Batched, within_memory
from fkdiff.terms.step import Expert

__all__ = [
    "DENOISERS",
    "Guidance",
    "NetworkCall",
    "batch_of",
    "calling",
    "chunked",
    "cuts",
    "halves_of",
    "read_guidance",
    "sliced",
    "split_guidance",
    "tapped_denoiser",
]

DENOISERS = ("unet", "transformer", "transformer_2")

# Position tables have no batch axis; a sequence length that equals the batch must not split them.
_SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "rotary_emb", "guidance_scale"})

# Z-Image's network takes and returns lists with one tensor a row.
_LISTED = frozenset({"x", "cap_feats"})


@dataclass(frozen=True)
class NetworkCall:
    """One call of a network by its pipeline.

    Arguments:
        name: Where the pipeline holds it: "unet", "transformer", ...
        network: The network.
        bound: Arguments of the call.
        evaluate: Evaluates arguments, in the network or another one, in micro-batches and counted.
    """

    name: str
    network: torch.nn.Module
    bound: inspect.BoundArguments
    evaluate: Callable[..., Any]

    @property
    def batch(self) -> int:
        """Rows of the call."""
        return batch_of(self.bound)


OnCall: TypeAlias = Callable[[NetworkCall], Any]


class Repeated(Batched, Protocol):
    """Whoever has a network called in micro-batches, and knows whether a call may be repeated."""

    @property
    def repeatable(self) -> bool: ...


@contextmanager
def tapped_denoiser(
    pipe: Any,
    shards: Shards,
    holder: Repeated,
    cost: Cost,
    on_call: "OnCall",
) -> Iterator[None]:
    """Watch and micro-batch the pipeline's networks while the block lasts.

    Each network gets a one-off subclass overriding `__call__`, which stays outside compiled
    graphs and offloading hooks.

    Arguments:
        pipe: A pipeline with a `unet` or `transformer`.
        shards: The particles here.
        holder: Says how many particles a network call has, None for all; less where memory runs
            out.
        cost: Counts rows and seconds.
        on_call: Answers each call; it may evaluate the network once, several times, or others.
    """
    with ExitStack() as stack:
        for name in DENOISERS:
            module = getattr(pipe, name, None)
            if isinstance(module, torch.nn.Module):
                stack.enter_context(_tapped(name, module, shards, holder, cost, on_call))
        yield


@contextmanager
def _tapped(
    name: str,
    module: torch.nn.Module,
    shards: Shards,
    holder: Repeated,
    cost: Cost,
    on_call: "OnCall",
) -> Iterator[None]:
    base = type(module)
    signature = inspect.signature(getattr(module, "_orig_mod", module).forward)

    def evaluate(bound: inspect.BoundArguments, other: torch.nn.Module | None = None) -> Any:
        network = other or functools.partial(base.__call__, module)
        batch = batch_of(bound)

        def few(size: int) -> Any:
            parts = cuts(batch, shards, size)
            if len(parts) == 1:
                return network(*bound.args, **bound.kwargs)
            return chunked(network, bound, parts)

        with cost.time("denoise"):
            out = within_memory(holder, len(shards.rows), few, again=holder.repeatable)
        cost.denoiser_evaluations += batch
        return out

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return on_call(NetworkCall(name, module, signature.bind(*args, **kwargs), evaluate))

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


@dataclass(frozen=True)
class Guidance:
    r"""How a pipeline mixes its network's outputs: sign * (uncond + g (cond - uncond)).

    Arguments:
        halves: Predictions a particle, 1 or 2.
        cond: Which of them is the conditional one.
        g: Guidance scale; 1 where there is one prediction.
        sign: -1 where the pipeline turns the sign of what the network predicts.
    """

    halves: int
    cond: int
    g: float
    sign: int

    def branch(self, outputs: list[Tensor], like: Tensor, branch: str) -> Tensor:
        """The "cond" or "uncond" prediction among a network's outputs, as the scheduler's."""
        found = halves_of(outputs, like)
        return self.sign * found[self.cond if branch == "cond" else 1 - self.cond]

    def experts(self, outputs: list[Tensor], like: Tensor) -> tuple[Expert, ...]:
        """The outputs with their exponents."""
        cond = Expert("cond", self.g, self.branch(outputs, like, "cond"))
        if self.halves == 1:
            return (cond,)
        return Expert("uncond", 1 - self.g, self.branch(outputs, like, "uncond")), cond


def halves_of(outputs: list[Tensor], like: Tensor) -> list[Tensor]:
    """Predictions of a step, each shaped like `like` (rows, *), learned variances dropped."""
    return [
        half[:, : like.shape[1]].reshape(like.shape)
        for out in outputs
        for half in out.split(len(like))
    ]


def read_guidance(outputs: list[Tensor], mixed: Tensor, shards: Shards | None = None) -> Guidance:
    r"""How outputs were mixed, found by a fit.

    Solves $\pm m = h_2 + a (h_1 - h_2)$ by least squares, as some pipelines turn the sign of what
    the network predicts; the half with the coefficient above 1 is the conditional one (the second
    half where guidance is between 0 and 1, as most pipelines order it).

    Arguments:
        outputs: What the networks returned during the step, (rows, *) or (2 * rows, *) each.
        mixed: What the pipeline gave to the scheduler, shape (rows, *).
        shards: Whose rows these are: the fit is over all processes.

    Raises:
        TapError: If the mixture isn't linear in two halves (guidance rescale, APG, PAG, ...).
    """
    halves = halves_of(outputs, mixed)
    if len(halves) not in (1, 2):
        raise TapError(f"expected one or two predictions a particle, got {len(halves)}")
    first, second = halves[0], halves[-1]
    fits = [(*_fit(first, second, sign * mixed, shards), sign) for sign in (1, -1)]
    residual, a, sign = min(fits, key=lambda fit: fit[0])
    if residual > 1e-3:
        raise TapError(
            f"the guided prediction isn't a linear mixture of the network's outputs (residual "
            f"{residual:.1e}); turn off guidance_rescale, PAG or other modified guidance"
        )
    if a is None:
        return Guidance(1, 0, 1.0, sign)
    return Guidance(2, 0, a, sign) if a > 1 else Guidance(2, 1, 1 - a, sign)


def split_guidance(
    outputs: list[Tensor], mixed: Tensor, rows: int, shards: Shards | None = None
) -> tuple[Expert, ...]:
    """Conditional and unconditional experts behind a guided output; see `read_guidance`."""
    return read_guidance(outputs, mixed[:rows], shards).experts(outputs, mixed[:rows])


def _fit(
    first: Tensor, second: Tensor, mixed: Tensor, shards: Shards | None
) -> tuple[float, float | None]:
    """Relative residual of m = second + a (first - second), and a; None where the two agree."""

    def total(values: Tensor) -> float:
        # Row by row first, and then over the rows of the run: the same bits wherever they are.
        rows = values.flatten(1).sum(1).cpu()
        return float((rows if shards is None else shards.gather(rows)).sum())

    d, m = (first - second).double(), (mixed - second).double()
    size = total(d.square())
    a = total(d * m) / size if size else None
    left = m if a is None else m - a * d
    return math.sqrt(total(left.square()) / max(total(mixed.double().square()), 1e-60)), a

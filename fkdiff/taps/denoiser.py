"""The denoiser tap: sees each call of the pipeline's networks, in micro-batches and counted."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from fkdiff.processes.shards import Shards
from fkdiff.taps.batching import Axes, batch_of, chunked, cuts
from fkdiff.taps.remembering import check_forgetful
from fkdiff.taps.shadowing import variant
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import Batched, within_memory

__all__ = [
    "NetworkCall",
    "Repeated",
    "binder_of",
    "calling",
    "networks",
    "tapped_denoiser",
]

_NAMES = ("unet", "transformer", "transformer_2")

Binder: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], inspect.BoundArguments]
"""(args, kwargs) -> arguments by name."""


def networks(pipe: Any) -> dict[str, torch.nn.Module]:
    """The networks that predict, by the pipeline's names for them."""
    found = {name: getattr(pipe, name, None) for name in _NAMES}
    return {name: net for name, net in found.items() if isinstance(net, torch.nn.Module)}


def binder_of(network: torch.nn.Module) -> Binder:
    """Function that names the arguments of a network's calls.

    Those given by position can be handed on by position, as a wrapper may ask.
    """
    signature = _signature_of(network)
    if _open(signature):
        return lambda args, kwargs: signature.bind(*args, **kwargs)
    parameters, by_name = list(signature.parameters.values()), inspect.Parameter.KEYWORD_ONLY

    @functools.cache
    def given(positional: int) -> inspect.Signature:
        named = [p.replace(kind=by_name) for p in parameters[positional:]]
        return signature.replace(parameters=[*parameters[:positional], *named])

    return lambda args, kwargs: given(len(args)).bind(*args, **kwargs)


def _signature_of(network: torch.nn.Module) -> inspect.Signature:
    """What a network is called with, also one that `torch.compile` or a plain function wraps.

    Where `forward` is replaced by a function of any arguments, the class's own names them.
    """
    inner = getattr(network, "_orig_mod", network)
    found = inspect.signature(inner.forward)
    if not _open(found):
        return found
    stated = inspect.signature(type(inner).forward)
    named = stated.replace(parameters=list(stated.parameters.values())[1:])
    return found if _open(named) else named


def _open(signature: inspect.Signature) -> bool:
    """Whether a function takes arguments that it doesn't name."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.kind in kinds for p in signature.parameters.values())


@dataclass(frozen=True)
class NetworkCall:
    """One call of a network by its pipeline.

    Arguments:
        name: Where the pipeline holds it: "unet", "transformer", ...
        network: The network.
        bound: Arguments of the call.
        evaluate: Evaluates arguments, in the network or another one, in micro-batches and counted.
        axes: Finds the rows in the arguments; see `sliced`.
    """

    name: str
    network: torch.nn.Module
    bound: inspect.BoundArguments
    evaluate: Callable[..., Any]
    axes: Axes | None = None

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
    on_call: OnCall,
    axes: Axes | None = None,
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
        axes: Finds the rows in the networks' arguments; see `sliced`.

    Raises:
        TapError: If a network keeps something of a call for the next one.
    """
    with ExitStack() as stack:
        for name, network in networks(pipe).items():
            stack.enter_context(_tapped(name, network, shards, holder, cost, on_call, axes))
        yield


@contextmanager
def _tapped(
    name: str,
    module: torch.nn.Module,
    shards: Shards,
    holder: Repeated,
    cost: Cost,
    on_call: OnCall,
    axes: Axes | None,
) -> Iterator[None]:
    base, bind = type(module), binder_of(module)
    wrapped = check_forgetful(name, module)

    def evaluate(bound: inspect.BoundArguments, other: torch.nn.Module | None = None) -> Any:
        network = other or functools.partial(base.__call__, module)
        batch = batch_of(bound)

        def few(size: int) -> Any:
            parts = cuts(batch, shards, size)
            if len(parts) == 1:
                return network(*bound.args, **bound.kwargs)
            return chunked(network, bound, parts, axes)

        with cost.time("denoise"):
            out = within_memory(holder, len(shards.rows), few, again=holder.repeatable)
        cost.denoiser_evaluations += batch
        return out

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = on_call(NetworkCall(name, module, bind(args, kwargs), evaluate, axes))
        if wrapped:  # by something that may have kept activations of this call
            check_forgetful(name, module)
        return out

    with calling(module, call):
        yield


@contextmanager
def calling(module: torch.nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Give one module another `__call__` while the block lasts; its class keeps its name."""
    base = type(module)
    module.__class__ = variant(base, __call__=call)
    try:
        yield
    finally:
        module.__class__ = base

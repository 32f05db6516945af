"""One run at a time: while a pipeline is tapped, nobody else may call it or steer it."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from fkdiff.taps.coefficients import TapError
from fkdiff.taps.denoiser import networks
from fkdiff.taps.shadowing import shadowed, variant

__all__ = ["others_refused", "sole_use"]

_LOCK = threading.Lock()
_HELD: dict[int, str] = {}  # by the identity of what a run holds, which lives as long as the run
_MINE: ContextVar[frozenset[int]] = ContextVar("held by runs of this thread", default=frozenset())


@contextmanager
def sole_use(pipe: Any) -> Iterator[None]:
    """Hold a pipeline and what a tap changes of it while the block lasts.

    Rewards of the run may call the pipeline, and steer it: they run in its context, where what
    is held already may be held again.

    Arguments:
        pipe: A pipeline.

    Raises:
        TapError: If it, its network or its autoencoder is in a steered run already.
    """
    name, parts = type(pipe).__name__, {id(part): word for word, part in _parts(pipe)}
    with _LOCK:
        parts = {key: word for key, word in parts.items() if key not in _MINE.get()}
        for key, word in parts.items():
            if key in _HELD:
                raise TapError(_refusal(word, _HELD[key]))
        _HELD.update(dict.fromkeys(parts, name))
    before = _MINE.set(_MINE.get() | parts.keys())
    try:
        yield
    finally:
        _MINE.reset(before)
        with _LOCK:
            for key in parts:
                del _HELD[key]


@contextmanager
def others_refused(pipe: Any) -> Iterator[None]:
    """Hold a pipeline, and refuse calls of it and of its parts from other threads.

    Raises:
        TapError: On entry as `sole_use`; later in the thread that calls, before anything of the
            run is changed.
    """
    held = id(pipe)

    def own(call: Callable[..., Any], word: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if held not in _MINE.get():
                raise TapError(_refusal(word, type(pipe).__name__))
            return call(*args, **kwargs)

        return checked

    with ExitStack() as stack:
        stack.enter_context(sole_use(pipe))
        for word, part in _parts(pipe):
            if word == "vae":
                stack.enter_context(shadowed(part, decode=own(part.decode, word)))
            else:
                stack.enter_context(_replaced(part, "__call__", own, word))
        stack.enter_context(_replaced(pipe.scheduler, "step", own, "scheduler"))
        yield


@contextmanager
def _replaced(part: Any, method: str, own: Callable[..., Any], word: str) -> Iterator[None]:
    """Give one object a checked method while the block lasts; its class keeps its name."""
    base = type(part)
    object.__setattr__(
        part, "__class__", variant(base, **{method: own(getattr(base, method), word)})
    )
    try:
        yield
    finally:
        object.__setattr__(part, "__class__", base)


def _parts(pipe: Any) -> list[tuple[str, Any]]:
    """The pipeline and what taps change of it, by name."""
    model = getattr(pipe, "model", None)  # of pipelines that draw tokens
    parts = [("pipeline", pipe), *networks(pipe).items()]
    parts += [] if model is None else [("model", model)]
    vae = getattr(pipe, "vae", None)
    return parts if vae is None else [*parts, ("vae", vae)]


def _refusal(word: str, run: str) -> str:
    mine = "this pipeline" if word == "pipeline" else f"this {word}"
    return (
        f"{mine} is in a steered run of {run} that hasn't ended; wait for it, or load a pipeline "
        f"of its own for each thread"
    )

"""Methods of one object that are shadowed while a run lasts; its class is never touched."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

__all__ = [
    "own_ranking_off",
    "shadow_of",
    "shadowed",
    "untapped",
    "variant",
    "watched_progress",
]


def variant(base: type, **methods: Callable[..., Any]) -> type:
    """A one-off subclass with other methods, for one object; name and module stay the base's."""
    return type(base.__name__, (base,), {**methods, "__module__": base.__module__})


@contextmanager
def shadowed(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Let instance attributes stand before the class's methods while the block lasts."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    vars(owner).update(methods)
    try:
        yield
    finally:
        for name in methods:
            vars(owner).pop(name)
        vars(owner).update(before)


@contextmanager
def watched_progress(pipe: Any, on_bar: Callable[[Any], None]) -> Iterator[None]:
    """Keep hold of the pipeline's own progress bar, to write ESS and rewards beside it."""
    original = getattr(pipe, "progress_bar", None)
    if original is None:  # modular pipelines draw theirs in a block
        yield
        return

    def progress_bar(*args: Any, **kwargs: Any) -> Any:
        bar = original(*args, **kwargs)
        on_bar(bar)
        return bar

    with shadowed(pipe, progress_bar=progress_bar):
        yield


def shadow_of(pipe: Any, scheduler: Any, without: Iterable[str] = ()) -> Any:
    """A copy of the pipeline that may be called while the pipeline itself is in a run.

    Arguments:
        pipe: The pipeline; its networks are shared.
        scheduler: The copy's scheduler.
        without: Shadowed methods that the copy doesn't take along.
    """
    shadow = copy.copy(pipe)
    shadow.__dict__ = {name: value for name, value in vars(pipe).items() if name not in without}
    vars(shadow).update(
        scheduler=scheduler, maybe_free_model_hooks=lambda: None, progress_bar=_no_progress
    )
    return shadow


def _no_progress(iterable: Any = None, total: int | None = None) -> Any:
    return nullcontext(SimpleNamespace(update=lambda n=1: None)) if iterable is None else iterable


@contextmanager
def untapped(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Let a reward call the pipeline: it finds the user's scheduler, and the run goes on after.

    Pipelines keep a call's settings (guidance scale, interrupt flag) on themselves.
    """
    held = dict(vars(pipe))
    # By assignment, diffusers would write the pipeline's config anew at each step.
    vars(pipe)["scheduler"] = scheduler
    try:
        yield
    finally:
        vars(pipe).clear()
        vars(pipe).update(held)


def own_ranking_off(pipe: Any) -> Any:
    """AudioLDM2 re-orders its waveforms by a score of its own; the cloud's order must stay."""
    if not hasattr(pipe, "score_waveforms"):
        return nullcontext()
    return shadowed(pipe, score_waveforms=lambda audio, **_: audio)

"""The scheduler tap: sees every step, may replace it, permutes solver history.

A deep copy of the scheduler gets a one-off subclass whose `step` is wrapped. Its name, config and
signature stay the same, so `isinstance` checks, `inspect.signature` and saving go on working, and
a scheduler that pipelines share is never touched.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes import Gaussian
from fkdiff.taps.coefficients import coefficients, estimate_x0
from fkdiff.taps.shadowing import variant

__all__ = ["Call", "Pair", "path_between", "permute_history", "position_of", "tapped_scheduler"]

Pair: TypeAlias = tuple[float, float]
"""(alpha, sigma)."""


@dataclass
class Call:
    """One call of `scheduler.step`, with what was known before and after it.

    Arguments:
        scheduler: The tapped copy.
        arguments: Bound arguments; `sample` may have several rows for one particle (DiT).
        index: Step index before the step, None for schedulers that keep none.
        pair: (alpha, sigma) before the step.
        next_pair: (alpha, sigma) after it, None at the end of the run.
        position: Calls made before this one.
        calls: Calls that the run will make.
        moved: False while a solver of order two is in the middle of a pair.
        output: Every batch-leading tensor that the scheduler returned, `prev_sample` first.
    """

    scheduler: Any
    arguments: dict[str, Any]
    index: int | None
    pair: Pair | None
    next_pair: Pair | None
    position: int
    calls: int
    moved: bool
    output: dict[str, Any]

    @property
    def sample(self) -> Tensor:
        """State that the step began with."""
        return self.arguments["sample"]

    @property
    def last(self) -> bool:
        """Whether the run ends with this call."""
        return self.position == self.calls - 1

    @property
    def transitions(self) -> int:
        """Transitions of the run: a pair of calls makes one in solvers of order two."""
        return (self.calls + 1) // 2 if getattr(self.scheduler, "order", 1) == 2 else self.calls

    @property
    def path(self) -> Gaussian | None:
        """Coefficients of the step, None where the scheduler doesn't tell."""
        return path_between(self.pair, self.next_pair)

    def x0(self, rows: int) -> Tensor:
        """Denoised estimate of the first rows, the scheduler's own where it has one."""
        for name in ("pred_original_sample", "denoised"):
            own = self.output.get(name)
            if isinstance(own, Tensor):
                return own[:rows]
        output = self.arguments["model_output"]
        return estimate_x0(self.scheduler, self.index, self.pair, self.sample, output)[:rows]


Before: TypeAlias = Callable[[Any, dict[str, Any], Pair | None], None]


def path_between(pair: Pair | None, after: Pair | None) -> Gaussian | None:
    """Coefficients of a transition; past the last timestep no noise is left."""
    return None if pair is None else Gaussian(*pair, *(after or (1.0, 0.0)))


@contextmanager
def tapped_scheduler(
    pipe: Any,
    generators: Sequence[torch.Generator],
    on_step: Callable[[Call], None],
    before: Before | None = None,
) -> Iterator[Any]:
    """Call `on_step` after each scheduler step of `pipe`; it may edit `Call.output`.

    Arguments:
        pipe: A pipeline with a `scheduler`.
        generators: One for each row; given to steps whose pipeline passes none, so that no noise
            comes from the global random state.
        on_step: Gets the call; edits `output` in place.
        before: May edit the step's arguments in place, before the scheduler takes them.
    """
    original = pipe.scheduler
    scheduler = copy.deepcopy(original)
    base = type(scheduler)
    signature = inspect.signature(base.step)
    state = {"position": 0, "offset": 0}

    @functools.wraps(base.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        a = bound.arguments
        as_dict, a["return_dict"] = a.get("return_dict", True), True
        _inject(a, generators)
        t, index = a["timestep"], getattr(self, "step_index", None)
        if state["position"] == 0:
            state["offset"] = _first(self.timesteps, t)
        pair = coefficients(self, t)
        if before is not None:
            before(self, a, pair)
        raw = base.step(*bound.args, **bound.kwargs)
        position, calls = state["position"], _steps(self) - state["offset"]
        state["position"] += 1
        call = Call(
            scheduler=self,
            arguments=a,
            index=getattr(self, "step_index", 0) - 1 if index is None else index,
            pair=pair,
            next_pair=_next_pair(self, state["offset"] + position),
            position=position,
            calls=calls,
            moved=position == calls - 1 or _pair_done(self),
            output=_as_fields(raw),
        )
        on_step(call)
        return _as_given(raw, call.output, as_dict)

    scheduler.__class__ = variant(base, step=step)
    pipe.scheduler = scheduler
    try:
        yield scheduler
    finally:
        pipe.scheduler = original


def position_of(scheduler: Any, timestep: Any) -> int | None:
    """Step index before a step, also before the first; None for schedulers that keep none."""
    if not hasattr(scheduler, "step_index"):
        return None
    index = scheduler.step_index
    return _first(scheduler.timesteps, timestep) if index is None else index


def _inject(arguments: dict[str, Any], generators: Sequence[torch.Generator]) -> None:
    """Pipelines such as SD3 pass no generator to `step`; DiT's state has two rows a particle."""
    if "generator" in arguments and arguments["generator"] is None:
        copies = len(arguments["sample"]) // len(generators)
        arguments["generator"] = list(generators) * copies


def _steps(scheduler: Any) -> int:
    """Timesteps that a whole run steps from; sCM's last one is the end of the run itself."""
    return len(scheduler.timesteps) - (type(scheduler).__name__ == "SCMScheduler")


def _first(timesteps: Tensor, t: Any) -> int:
    """Where a run starts: image-to-image runs begin in the middle of the grid."""
    found = (timesteps == torch.as_tensor(t).to(timesteps)).nonzero()
    return int(found[0]) if len(found) else 0


def _next_pair(scheduler: Any, place: int) -> Pair | None:
    if place + 1 < len(scheduler.timesteps):
        return coefficients(scheduler, scheduler.timesteps[place + 1])
    final = getattr(scheduler, "final_alpha_cumprod", None)
    if final is not None:
        return float(final) ** 0.5, (1 - float(final)) ** 0.5
    return None


def _pair_done(scheduler: Any) -> bool:
    return getattr(scheduler, "order", 1) == 1 or bool(
        getattr(scheduler, "state_in_first_order", True)
    )


def _as_fields(raw: Any) -> dict[str, Any]:
    if isinstance(raw, tuple):  # CogVideoXDPM returns one whatever it is asked
        names = ("prev_sample", "pred_original_sample")
        return dict(zip(names, raw, strict=False))
    return dict(raw)


def _as_given(raw: Any, fields: dict[str, Any], as_dict: bool) -> Any:
    if isinstance(raw, tuple):
        return tuple(fields.values())
    out = type(raw)(**fields)
    return out if as_dict else out.to_tuple()


def permute_history(scheduler: Any, like: Tensor, continued: Callable[[Tensor], Tensor]) -> None:
    """Index every per-row tensor that the solver remembers.

    A tensor belongs to the rows if it has the state's number of axes and its batch size; solvers
    keep them as attributes or in lists (`model_outputs`, `ets`, `last_sample`, `cur_sample`, ...).

    Arguments:
        scheduler: The scheduler, changed in place.
        like: The state, shape (B, *).
        continued: Rows (B, *) to what each slot continues, same shape.
    """

    def pick(value: Any) -> Any:
        if isinstance(value, Tensor):
            mine = value.ndim == like.ndim and len(value) == len(like)
            return continued(value) if mine else value
        if isinstance(value, list | tuple):
            return type(value)(pick(v) for v in value)
        return value

    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor | list | tuple):
            setattr(scheduler, name, pick(value))

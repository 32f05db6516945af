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
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes import Gaussian
from fkdiff.taps.coefficients import coefficients, estimate_x0
from fkdiff.taps.shadowing import variant
from fkdiff.taps.timesteps import Clock, Pair, steps_of, transitions_of

__all__ = [
    "Call",
    "path_between",
    "permute_call",
    "permute_history",
    "tapped_scheduler",
]


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
        first: Whether it is the pipeline's own scheduler, not one that steps another modality.
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
    first: bool = True

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
        """Transitions of the run."""
        return transitions_of(self.scheduler, self.calls)

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
        times = self.arguments.get("per_token_timesteps")
        if times is not None:  # tokens of an image are less noisy, and the sign is turned
            sigma = times[..., None] / self.scheduler.config.num_train_timesteps
            return (self.sample + sigma * output)[:rows]
        return estimate_x0(self.scheduler, self.index, self.pair, self.sample, output)[:rows]


Before: TypeAlias = Callable[[Any, dict[str, Any], Pair | None], None]


def path_before(call: Call) -> Gaussian | None:
    """Coefficients of the call before, which ended where this one began; None in the first."""
    if call.position == 0:
        return None
    place = steps_of(call.scheduler) - call.calls + call.position - 1
    twin = copy.copy(call.scheduler)
    if hasattr(twin, "_step_index"):
        twin._step_index = place
    return path_between(coefficients(twin, twin.timesteps[place]), call.pair)


def path_between(pair: Pair | None, after: Pair | None) -> Gaussian | None:
    """Coefficients of a transition; past the last timestep no noise is left."""
    return None if pair is None else Gaussian(*pair, *(after or (1.0, 0.0)))


@contextmanager
def tapped_scheduler(
    pipe: Any,
    generators: Sequence[torch.Generator],
    on_step: Callable[[Call], None],
    before: Before | None = None,
    on_copy: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Call `on_step` after each scheduler step of `pipe`; it may edit `Call.output`.

    Arguments:
        pipe: A pipeline with a `scheduler`.
        generators: One for each row; given to steps whose pipeline passes none, so that no noise
            comes from the global random state.
        on_step: Gets the call; edits `output` in place. Further schedulers of the pipeline, and
            copies that it makes for the latents of another modality, come here too.
        before: May edit the step's arguments in place, before the pipeline's own scheduler takes
            them.
        on_copy: Called where the pipeline copies a scheduler; may refuse.
    """
    further = {name: value for name, value in vars(pipe).items() if _is_further(name, value)}
    held = {"scheduler": pipe.scheduler, **further}
    copies = {name: copy.deepcopy(value) for name, value in held.items()}
    first = copies["scheduler"]
    watch = _Watch(first, generators, on_step, before, on_copy)
    for name, scheduler in copies.items():
        scheduler.__class__ = watch.variant_of(type(scheduler))
        setattr(pipe, name, scheduler)
    try:
        yield first
    finally:
        for name, original in held.items():
            setattr(pipe, name, original)


def _is_further(name: str, value: Any) -> bool:
    return name.endswith("_scheduler") and hasattr(value, "step") and hasattr(value, "timesteps")


@dataclass
class _Watch:
    """Watches the steps of a pipeline's schedulers, each with a clock of its own."""

    first: Any
    generators: Sequence[torch.Generator]
    on_step: Callable[[Call], None]
    before: Before | None
    on_copy: Callable[[], None] | None
    _clocks: "dict[Any, Clock]" = field(default_factory=dict)

    def variant_of(self, base: type) -> type:
        """A class of schedulers whose steps, and whose copies' steps, are watched."""
        stock: Any = base
        signature = inspect.signature(stock.step)

        @functools.wraps(stock.step)
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(scheduler, *args, **kwargs)
            bound.apply_defaults()
            return self._step(scheduler, stock.step, bound)

        def copied(scheduler: Any, memo: dict[int, Any]) -> Any:
            if self.on_copy is not None:
                self.on_copy()
            twin = object.__new__(type(scheduler))
            memo[id(scheduler)] = twin
            vars(twin).update(copy.deepcopy(vars(scheduler), memo))
            return twin

        return variant(base, step=step, __deepcopy__=copied)

    def _step(self, scheduler: Any, step: Callable[..., Any], bound: Any) -> Any:
        a = bound.arguments
        as_dict, a["return_dict"] = a.get("return_dict", True), True
        _inject(a, self.generators)
        clock = self._clocks.setdefault(scheduler, Clock())
        clock.start(scheduler, a["timestep"])
        index = getattr(scheduler, "step_index", None)
        pair = clock.pair(scheduler, a["timestep"])
        if self.before is not None and scheduler is self.first:
            self.before(scheduler, a, pair)
        raw = step(*bound.args, **bound.kwargs)
        position, calls = clock.tick(), steps_of(scheduler) - clock.begin
        call = Call(
            scheduler=scheduler,
            arguments=a,
            index=index,
            pair=pair,
            next_pair=clock.next_pair(scheduler),
            position=position,
            calls=calls,
            moved=position == calls - 1 or _pair_done(scheduler),
            output=_as_fields(raw),
            first=scheduler is self.first,
        )
        self.on_step(call)
        return _as_given(raw, call.output, as_dict)


def _inject(arguments: dict[str, Any], generators: Sequence[torch.Generator]) -> None:
    """Pipelines such as SD3 pass no generator to `step`; DiT's state has two rows a particle."""
    if "generator" in arguments and arguments["generator"] is None:
        copies = max(1, len(arguments["sample"]) // len(generators))
        arguments["generator"] = list(generators) * copies


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
    if isinstance(raw, tuple) or not as_dict:
        return tuple(fields.values())
    return type(raw)(**fields)


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


def permute_call(call: Call, continued: Callable[[Tensor], Tensor]) -> None:
    """Index every per-row tensor that a step returned, and what its solver remembers."""
    for name, value in call.output.items():
        if isinstance(value, Tensor) and value.ndim and len(value) == len(call.sample):
            call.output[name] = continued(value)
    permute_history(call.scheduler, call.sample, continued)

"""Where the arguments of a network hold its rows: found from the same call for another number.

Most tensors have their rows first. Text states of several layers have them second, and a video's
texts are repeated for its frames; tables of positions have none, also where they are as long.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from fkdiff.taps.arguments import Expanded
from fkdiff.taps.batching import Pick, batch_of
from fkdiff.taps.capture import captured
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.per_prompt import PerPrompt
from fkdiff.taps.shadowing import shadow_of

__all__ = ["RowAxes"]

_logger = logging.getLogger(__name__)

Path: TypeAlias = tuple[str | int, ...]

_CLOSE = 1e-4
"""Relative difference below which conditions count as the same; rounding depends on the batch."""


@dataclass
class RowAxes:
    """Finds the rows in the arguments of one run's network calls.

    Arguments:
        pipe: A copy of the pipeline from before the run.
        inputs: The run's call by prompt.
        starts: Each row's generator as it was before the run.
    """

    pipe: Any
    inputs: PerPrompt
    starts: Sequence[torch.Generator]
    _seen: dict[Path, "_Place | None"] = field(default_factory=dict)

    @classmethod
    def of(
        cls, pipe: Any, expanded: Expanded, starts: Sequence[torch.Generator]
    ) -> "RowAxes | None":
        """Those of a run that is about to begin; None where its call isn't known by prompt."""
        if expanded.inputs is None:
            return None
        return cls(shadow_of(pipe, pipe.scheduler), expanded.inputs, starts)

    def __call__(self, path: Path, value: Any, batch: int) -> Pick | None:
        """What takes rows of a part of a call's arguments, None where that has no rows.

        Arguments:
            path: Name of the argument, keys and places in it.
            value: A tensor or a list.
            batch: Rows of the call.

        Raises:
            TapError: If its rows can't be told.
        """
        if path not in self._seen:
            self._seen[path] = self._place(path, value, batch)
        place = self._seen[path]
        if place is None:
            return None
        size = value.shape[place.axis] if isinstance(value, Tensor) else len(value)
        if size != batch * place.times:
            self._refuse(path, value)
        if isinstance(value, Tensor):
            return _along(place.axis, batch, place.times)
        return lambda values, rows: type(values)(values[row] for row in rows.tolist())

    @cached_property
    def _compared(self) -> list[tuple[inspect.BoundArguments, inspect.BoundArguments]]:
        """Arguments of the networks' calls in the first step of runs of one row and of two."""
        starts = [self.starts[0], self.starts[-1]]  # the second row's numbers are read by nobody
        try:
            one, two = (captured(self.pipe, self._call(n), starts[:n]) for n in (1, 2))
        except Exception as error:  # what a loop makes of silent networks can't be known
            _logger.info("rows are taken to come first, no call of one can be made: %s", error)
            return []
        return [(a, b) for (_, a), (_, b) in zip(one, two, strict=False)]

    def _call(self, rows: int) -> dict[str, Any]:
        return {k: v for k, v in self.inputs.call([0], rows).items() if k != "latents"}

    def _place(self, path: Path, value: Any, batch: int) -> "_Place | None":
        """Where the rows of a part of the arguments are; None where it has none."""
        if isinstance(value, Tensor) and (value.ndim == 0 or _plainly_first(path, value, batch)):
            return _Place(0, 1) if value.ndim else None
        if path[-1] == "down_block_additional_residuals":  # a tensor for each block
            return None
        pairs = [
            (_at(path, one.arguments), _at(path, two.arguments), batch_of(one))
            for one, two in self._compared
        ]
        pairs = [pair for pair in pairs if type(pair[0]) is type(value) is type(pair[1])]
        if not pairs:  # a network that the first step doesn't call, or an argument of its own
            mine = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
            return _Place(0, 1) if mine else None
        found = {place for one, two, rows in pairs for place in _places(one, two, rows)}
        if len(found) > 1 or any(place.times == 0 for place in found):
            self._refuse(path, value)
        for place in found:
            if isinstance(value, Tensor) and place.times > 1 and self.inputs.prompts > 1:
                self._check(path, value, place, [one for one, *_ in pairs])
            return place
        return None

    def _check(self, path: Path, value: Tensor, place: "_Place", likes: list[Tensor]) -> None:
        """Refuse what lays out the entries of a row in another order than side by side."""
        batch = value.shape[place.axis] // place.times
        first = torch.arange(0, batch, len(self.starts))
        own = _along(place.axis, batch, place.times)(value, first)
        likes = [like for like in likes if like.shape == own.shape]
        far = [bool((own - like).abs().max() > _CLOSE * like.abs().max()) for like in likes]
        if likes and all(far):
            self._refuse(path, value)

    def _refuse(self, path: Path, value: Any) -> NoReturn:
        name = ".".join(map(str, path))
        size = tuple(value.shape) if isinstance(value, Tensor) else len(value)
        raise TapError(
            f"which entries of {name} {size} belong to which of {len(self.starts)} particles "
            f"can't be told, so the call can't be cut; leave out micro_batch and other experts"
        )


@dataclass(frozen=True)
class _Place:
    """Axis of the rows, and entries for each of them, side by side; 0 of what isn't whole."""

    axis: int
    times: int


def _plainly_first(path: Path, value: Tensor, batch: int) -> bool:
    """Whether a tensor is a picture or a text for each row; tables of positions look otherwise.

    Nothing has to be compared then, and no ControlNet evaluated for it.
    """
    known = value.ndim > 3 or path == ("encoder_hidden_states",)
    return known and value.shape[0] == batch and list(value.shape).count(batch) == 1


def _places(one: Any, two: Any, rows: int) -> Iterator[_Place]:
    """Axes that are twice as long with twice the rows."""
    if isinstance(one, Tensor):
        sizes = list(zip(one.shape, two.shape, strict=True)) if one.ndim == two.ndim else []
    else:
        sizes = [(len(one), len(two))]
    for axis, (fewer, more) in enumerate(sizes):
        if fewer and more == 2 * fewer:
            yield _Place(axis, 0 if fewer % rows else fewer // rows)


def _at(path: Path, found: Any) -> Any:
    """What is in a place of nested arguments, None where they have no such place."""
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return None
    return found


def _along(axis: int, batch: int, times: int) -> Pick:
    """Takes rows along an axis of a tensor that has so many entries for each, side by side."""

    def pick(value: Tensor, rows: Tensor) -> Tensor:
        rows = rows.to(value.device)
        if times == 1:
            return value.index_select(axis, rows)
        parts = value.unflatten(axis, (batch, times)).index_select(axis, rows)
        return parts.flatten(axis, axis + 1)

    return pick

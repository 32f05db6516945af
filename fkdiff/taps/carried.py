"""What a pipeline's call drew for each row and carries along in variables of its own.

Some families encode or noise an image in the call itself, row by row, and show it to the network
at every step, or step a part of the state and put the rest back. Such tensors stand in the frames
of the pipeline's methods while the scheduler steps.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from fkdiff.processes.shards import Shards

__all__ = ["Carried"]

Path: TypeAlias = tuple[str | int, ...]


@dataclass
class Carried:
    """Finds the tensors of a running call that differ between the rows of one prompt.

    Arguments:
        pipe: The pipeline.
        shards: Which rows are here.
        given: Arguments of the call; the user's own tensors are never written to.
    """

    pipe: Any
    shards: Shards
    given: Mapping[str, Any]
    _drawn: list[Path] | None = field(default=None, init=False)

    def tensors(self, moved: Sequence[Tensor]) -> list[Tensor]:
        """Those that have a row of its own for each particle, none within another, in order.

        Which they are is found at the first resampling; later ones find them by their names.

        Arguments:
            moved: What continues its rows already, or is about to be replaced.
        """
        taken = [*moved, *(value for _, value in _tensors((), self.given))]
        variables = _variables(self.pipe)
        found = dict(_tensors((), variables))
        held = {p: v for p, v in found.items() if not any(_within(v, one) for one in taken)}
        if self._drawn is None:
            self._drawn = [] if _several(variables) else self._differing(held)
        mine = [held[path] for path in self._drawn if path in held]
        chosen: list[Tensor] = []
        for value in sorted(mine, key=Tensor.numel, reverse=True):  # a stable order
            if not any(_within(value, one) for one in chosen):
                chosen.append(value)
        return chosen

    def _differing(self, held: Mapping[Path, Tensor]) -> list[Path]:
        """Paths of tensors whose rows differ within a prompt; none where processes share them."""
        if self.shards.world > 1:  # each has other rows, and may find other tensors
            return []
        rows = len(self.shards.rows)
        mine = {p: v for p, v in held.items() if v.ndim > 2 and len(v) and len(v) % rows == 0}
        first = self.shards.everyone // self.shards.particles * self.shards.particles
        return [
            path
            for path, value in mine.items()
            if not bool(self.shards.agree(_by_row(value, rows), first).all())
        ]


def _by_row(value: Tensor, rows: int) -> Tensor:
    """What several copies of all rows, one after another, have of each."""
    return value.unflatten(0, (-1, rows)).movedim(1, 0).flatten(1)


def _several(variables: Mapping[str, Any]) -> bool:
    """Whether the call steps by a scheduler of its own too, whose rows `Companions` moves."""
    own = variables.get("self.scheduler")
    others = (v for name, v in variables.items() if not name.startswith("self."))
    return any(isinstance(v, SchedulerMixin) and v is not own for v in others)


def _variables(pipe: Any) -> dict[str, Any]:
    """Variables of the pipeline's methods that are running, the innermost first, and its own."""
    found: dict[str, Any] = {}
    frame = sys._getframe(1)
    while frame is not None:
        variables = frame.f_locals
        if variables.get("self") is pipe:
            found = {**variables, **found}
            if frame.f_code.co_name == "__call__":
                break
        frame = frame.f_back
    return {**{f"self.{name}": value for name, value in vars(pipe).items()}, **found}


def _tensors(path: Path, value: Any, depth: int = 3) -> Iterator[tuple[Path, Tensor]]:
    """Tensors in variables and in the containers that they hold."""
    if isinstance(value, Tensor):
        yield path, value
    elif depth and isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _tensors((*path, str(name)), inner, depth - 1)
    elif depth and isinstance(value, list | tuple) and len(value) <= 64:
        for place, inner in enumerate(value):
            yield from _tensors((*path, place), inner, depth - 1)


def _within(value: Tensor, other: Tensor) -> bool:
    """Whether a tensor's memory is a part of another's, or all of it."""
    if value.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    (start, stop), (first, last) = _span(value), _span(other)
    return first <= start and stop <= last


def _span(value: Tensor) -> tuple[int, int]:
    """First number of a tensor in its storage, and its last."""
    reach = sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    return int(value.storage_offset()), int(value.storage_offset() + reach)

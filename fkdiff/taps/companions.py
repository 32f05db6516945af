"""Pipelines that step several latents, each by a copy of their scheduler: video and its sound."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fkdiff.taps.coefficients import TapError
from fkdiff.taps.scheduler import Call

__all__ = ["Companions", "check_companion"]


def check_companion(family: str, corrected: bool, kept: bool) -> None:
    """Refuse a pipeline that steps several latents where one alone would do.

    Arguments:
        family: Name of its class.
        corrected: Whether a corrector moves the state.
        kept: Whether the run is saved.

    Raises:
        TapError: With the remedy.
    """
    what = f"{family} steps several latents by schedulers of their own"
    if corrected:
        raise TapError(f"Correct() must move all of the state, but {what}; leave it out")
    if kept:
        raise TapError(f"{what}, whose state isn't kept; leave out keep (--save-every 0)")


@dataclass
class Companions:
    """Moves what the further schedulers of a pipeline step with the particles of the first one.

    A transition is a step of the pipeline's own scheduler. Its copies take theirs before or after
    it, in the same turn of the loop, and continue the same rows.

    Arguments:
        rows: Particles here, N.
        move: (call, parents) -> None: index what a call returned and its scheduler remembers.
    """

    rows: int
    move: Callable[[Call, Tensor], None]
    _turns: int = 0
    _parents: Tensor | None = None
    _early: list[Call] = field(default_factory=list)
    _stages: set[Any] = field(default_factory=set)
    ended: dict[Any, Any] = field(default_factory=dict)
    """What the schedulers of earlier stages returned last, which stays as it is."""

    def turn(self, parents: Tensor | None) -> None:
        """Note the rows that a call of the first scheduler continued, None where none moved."""
        self._turns, self._parents = self._turns + 1, parents
        for call in self._early:
            if parents is not None:
                self._move_in_place(call, parents)
        self._early = []

    def join(self, call: Call) -> None:
        """Move the rows of another scheduler's call as its turn did, or will.

        Steps of an earlier stage, all of them before the first turn, stay as they are.

        Raises:
            TapError: If it doesn't hold a row for each particle, or keeps another time.
        """
        name = type(call.scheduler).__name__
        if len(call.sample) % self.rows:
            raise TapError(
                f"a second {name} steps {len(call.sample)} rows of latents for {self.rows} "
                f"particles, so they can't be moved with them; this pipeline can't be steered"
            )
        turn = call.position if call.scheduler not in self._stages else -1
        if self._turns == 0 and turn != 0:
            self._stages.add(call.scheduler)
            self.ended[call.scheduler] = call.output.get("prev_sample")
            self._early = [early for early in self._early if early.scheduler is not call.scheduler]
        elif turn == self._turns:
            self._early.append(call)
        elif turn != self._turns - 1:
            raise TapError(
                f"a second {name} took {call.position + 1} steps where the pipeline's own took "
                f"{self._turns}; latents that are stepped at different times can't be steered"
            )
        elif self._parents is not None:
            self.move(call, self._parents)

    def _move_in_place(self, call: Call, parents: Tensor) -> None:
        """The pipeline holds these tensors already, so their numbers move."""
        held = dict(call.output)
        self.move(call, parents)
        for name, value in call.output.items():
            if isinstance(value, Tensor):
                held[name].copy_(value)
                call.output[name] = held[name]

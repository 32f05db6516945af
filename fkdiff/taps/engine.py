"""What a tap asks of whoever weighs and resamples."""

from typing import Any, Protocol

from torch import Tensor

from fkdiff.terms.step import Step
from fkdiff.terms.token_step import Cloud

__all__ = ["Engine"]


class Engine(Cloud, Protocol):
    """Whoever weighs and resamples; called once per transition."""

    def transition(self, step: Step) -> Tensor | None:
        """Reweight and resample; returns the rows to continue, None where none moved."""
        ...

    def state(self) -> dict[str, Any]:
        """What it remembers beside its `history`: tensors, numbers, lists and dictionaries."""
        ...

    def history(self, since: int) -> list[dict[str, Any]]:
        """What each transition from `since` on has left."""
        ...

    def restore(self, saved: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """Go on from a `state` and the `history` before it."""
        ...

    def status(self) -> dict[str, str]:
        """What to show beside the progress bar."""
        ...

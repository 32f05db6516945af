"""What a tap asks of whoever weighs and resamples."""

from typing import Any, Protocol

from torch import Tensor

from fkdiff.processes.streams import Seed
from fkdiff.terms.step import Step

__all__ = ["Engine"]


class Engine(Protocol):
    """Whoever weighs and resamples; called once per transition."""

    @property
    def log_w(self) -> Tensor:
        """Carried log-weights, shape (P, K), float64."""
        ...

    @property
    def seed(self) -> Seed:
        """Seed of every stream, one for all prompts or one for each."""
        ...

    def transition(self, step: Step) -> Tensor | None:
        """Reweight and resample; returns the rows to continue, None where none moved."""
        ...

    def may_resample(self, index: int, total: int) -> bool:
        """Whether resampling could fire at this transition."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that it remembers, as tensors, numbers, lists and dictionaries."""
        ...

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a `state`."""
        ...

    def status(self) -> dict[str, str]:
        """What to show beside the progress bar."""
        ...

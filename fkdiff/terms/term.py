"""What every term can do; a term overrides what it needs."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from fkdiff.terms.step import Step

__all__ = ["State", "Term"]

State = dict[str, Tensor]


@runtime_checkable
class Term(Protocol):
    """One wish about the samples: frozen, reusable, with a stated target."""

    @property
    def needs(self) -> frozenset[str]:
        """What the tap must provide, of {"x0", "decode", "scores", "uncond", "kernel"}."""
        ...

    @property
    def target(self) -> str:
        """The law it asks for, in one line, or "heuristic"."""
        ...

    @property
    def steers(self) -> bool:
        """Whether weights can differ before the final transition, so that resampling can fire."""
        ...

    def start(self, rows: int) -> State:
        """State with leading axis `rows`; the engine permutes it."""
        ...

    def log_twist(self, step: Step, state: State) -> tuple[Tensor, State]:
        """Cumulative log-twist after the step, (P, K) float64, and the new state."""
        ...

"""What every term can do; a term overrides what it needs."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fkdiff.terms.step import Step

__all__ = ["State", "Term", "Weightless"]

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


class Weightless:
    """Base of the terms that have no log-twist: they change what moves the particles."""

    @property
    def needs(self) -> frozenset[str]:
        """The network's predictions."""
        return frozenset({"scores"})

    @property
    def steers(self) -> bool:
        """A pool alone leaves all weights equal."""
        return False

    def start(self, rows: int) -> State:
        """No state."""
        return {}

    def log_twist(self, step: Step, state: State) -> tuple[Tensor, State]:
        """Zero."""
        return torch.zeros_like(step.log_w), state

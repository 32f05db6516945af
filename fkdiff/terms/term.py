"""What every term can do; a term overrides what it needs."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fkdiff.terms.step import Step

if TYPE_CHECKING:
    overridable = property
else:  # unlike a property, it gives way to a field of a dataclass
    from functools import cached_property as overridable

__all__ = ["NEEDS", "State", "Term", "Weightless", "law_of", "weighs"]

State = dict[str, Tensor]

NEEDS = {
    "x0": "denoised estimates",
    "decode": "decoded samples",
    "scores": "the network's predictions (`Step.experts`)",
    "uncond": "an unconditional prediction (guidance that isn't 1)",
    "kernel": "the density of the step (`Step.kernel`)",
    "grad": "gradients of a guide",
    "pipeline": "a pipeline's own prompts and networks",
    "tokens": "tokens that are uncovered",
}
"""What a term may need, in words."""


class Term:
    """One wish about the samples; frozen, reusable, with a stated target.

    A term of one's own inherits from this class and overrides `target` and `log_twist`.

    Example:
        >>> class Near(Term):
        ...     target = "law of the chain times exp(-|x|^2)"
        ...     def log_twist(self, step, state):
        ...         squares = step.x0.flatten(1).square().sum(1).double()
        ...         return -squares.reshape(step.prompts, step.particles), state
        >>> Near().steers, sorted(Near().needs)
        (True, ['x0'])
    """

    @overridable
    def needs(self) -> frozenset[str]:
        """What a run must provide, of `NEEDS`."""
        return frozenset({"x0"})

    @overridable
    def target(self) -> str:
        """The law that the weighted cloud stands for, in one line, or "heuristic"."""
        return f"law of the chain times exp(log-twist of {type(self).__name__})"

    @overridable
    def steers(self) -> bool:
        """Whether weights can differ before the final transition, so that resampling can fire."""
        return weighs(self)

    def start(self, rows: int) -> State:
        """State with leading axis `rows`, permuted as particles are; none by default."""
        return {}

    def log_twist(self, step: Step, state: State) -> tuple[Tensor, State]:
        """Cumulative log-twist after the step, (P, K) float64, and the new state; zero here."""
        return torch.zeros_like(step.log_w), state


class Weightless(Term):
    """Base of the terms that have no log-twist: they change what moves the particles."""


def weighs(term: object) -> bool:
    """Whether a term has a log-twist of its own, whatever its class.

    Example:
        >>> weighs(Term()), weighs(Weightless())
        (False, False)
    """
    method = getattr(term, "log_twist", None)
    return getattr(method, "__func__", method) is not Term.log_twist


def law_of(term: Term) -> str:
    """The law that a term states, or a plain name of its log-twist where it states another's.

    A class that overrides `log_twist` and inherits `target` has a text about what its base does.

    Example:
        >>> from fkdiff import Tilt
        >>> class Halved(Tilt):
        ...     def log_twist(self, step, state):
        ...         twist, state = super().log_twist(step, state)
        ...         return twist / 2, state
        >>> law_of(Halved(len))
        'law of the chain times exp(log-twist of Halved)'
    """
    for kind in type(term).__mro__:
        if "target" in vars(kind) or "target" in getattr(term, "__dict__", ()):
            return term.target
        if "log_twist" in vars(kind):
            return f"law of the chain times exp(log-twist of {type(term).__name__})"
    return term.target

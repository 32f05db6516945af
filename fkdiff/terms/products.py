"""Pool terms of other laws: products and ratios of experts, and powers of the whole pool."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from fkdiff.terms.pool import Evaluate, PoolTerm, Source, label, labels, source_code
from fkdiff.terms.step import Expert

__all__ = ["Anneal", "Product"]

_CONSTANT = (
    "an exponent b(t) adds db/dt log q_j to the weights, and no network tells log q_j: "
    "give a number, or leave out Correct()"
)


@dataclass(frozen=True)
class Anneal(PoolTerm):
    r"""Raise the whole pool to a power: $q^\beta$, sharper for $\beta > 1$.

    Arguments:
        beta: Inverse temperature, positive and constant in time.

    Raises:
        ValueError: If `beta` isn't positive and finite.

    References:
        | Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts
        | (Skreta et al., 2025), arXiv 2503.02819
    """

    beta: float
    stage: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if callable(self.beta):
            raise ValueError(f"beta must be constant in time, got {self.beta!r}; {_CONSTANT}")
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta must be positive and finite, got {self.beta}")

    @property
    def target(self) -> str:
        """The power."""
        return f"to the power {self.beta:g}"

    def experts(
        self, pool: list[Expert], evaluate: Evaluate, progress: float = 1.0
    ) -> list[Expert]:
        """Multiply every exponent by beta."""
        return [replace(expert, b=self.beta * expert.b) for expert in pool]

    def exponent_sum(self, total: float) -> float:
        """beta times the sum."""
        return self.beta * total


@dataclass(frozen=True)
class Product(PoolTerm):
    r"""Multiply the pool by another expert: $q \cdot q_{\mathrm{other}}^b$.

    With `against`, by a ratio: $q \cdot (q_{\mathrm{other}} / q_{\mathrm{against}})^b$, which
    keeps the sum of the exponents, so that b acts as the guidance of a second prompt.

    Arguments:
        other: A prompt, a network called as the pipeline's own, a pipeline of the same kind (asked
            with its own text encoder), any callable (x, alpha, sigma) -> prediction of the
            pipeline's type, or the name of a denoiser that `sample` was given.
        b: Exponent, finite, constant in time.
        against: Expert of the pool to divide by, such as "uncond"; None for no division.

    Raises:
        ValueError: If `b` isn't finite.

    References:
        | Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts
        | (Skreta et al., 2025), arXiv 2503.02819
    """

    other: Source
    b: float = 1.0
    against: str | None = None
    stage: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if callable(self.b):
            raise ValueError(f"b must be constant in time, got {self.b!r}; {_CONSTANT}")
        if not math.isfinite(self.b):
            raise ValueError(f"b must be finite, got {self.b}")

    def __repr__(self) -> str:
        against = "" if self.against is None else f", against={self.against!r}"
        return f"Product(other={source_code(self.other)}, b={self.b!r}{against})"

    @property
    def target(self) -> str:
        """The factor."""
        below = f" / {self.against}" if self.against else ""
        return f"times ({label(self.other)}{below})^{self.b:g}"

    def experts(
        self, pool: list[Expert], evaluate: Evaluate, progress: float = 1.0
    ) -> list[Expert]:
        """Add the expert, and take its exponent from the one that it is set against."""
        if self.against is not None:
            known = [expert.name for expert in pool]
            if self.against not in known:
                raise ValueError(
                    f"against must be one of {', '.join(known)}, got {self.against!r}; "
                    f"the unconditional expert needs guidance above 1"
                )
            pool = [replace(e, b=e.b - self.b) if e.name == self.against else e for e in pool]
        (name,) = labels([self.other], taken=[expert.name for expert in pool])
        return [*pool, Expert(name, self.b, evaluate(self.other, "cond"))]

    def exponent_sum(self, total: float) -> float:
        """b more, the same where it is set against an expert."""
        return total + (self.b if self.against is None else 0.0)

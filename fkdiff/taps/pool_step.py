"""The flat pool at one call of the scheduler: as a prediction, as an estimate, as noises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes import Gaussian
from fkdiff.taps.coefficients import TapError, as_predicted, estimate_x0, noise_of, output_of
from fkdiff.terms.correctors import pool_estimate
from fkdiff.terms.step import Expert

__all__ = ["PoolStep"]


@dataclass(frozen=True)
class PoolStep:
    """A pool of experts where a pipeline is about to step.

    Arguments:
        scheduler: The scheduler.
        index: Its step index, None if it keeps none.
        pair: (alpha, sigma).
        x: State, shape (N, *).
        experts: The flat pool, predictions of the scheduler's type.
    """

    scheduler: Any
    index: int | None
    pair: tuple[float, float]
    x: Tensor
    experts: Sequence[Expert]

    @property
    def total(self) -> float:
        """Sum of the exponents."""
        return sum(e.b for e in self.experts)

    def noises(self) -> list[tuple[float, Tensor]]:
        """Exponents with noise estimates, float32 at least."""
        kind = torch.promote_types(self.x.dtype, torch.float32)
        x = self.x.to(kind)
        return [
            (e.b, noise_of(self.scheduler, self.index, self.pair, x, e.output.to(kind)))
            for e in self.experts
        ]

    def edited(self) -> Tensor:
        """What the scheduler is given in place of the pipeline's prediction, (N, *).

        Raises:
            TapError: If the exponents don't sum to 1 in pure noise, where no score is told.
        """
        if abs(self.total - 1) < 1e-6:
            mixed = torch.stack([e.b * e.output for e in self.experts]).sum(0)
        elif self.pair[0] == 0:
            raise TapError(
                f"exponents must sum to 1 where a run starts in pure noise, got {self.total:g}; "
                f"add Correct(), or divide: Product(..., against='uncond')"
            )
        else:
            noise = torch.stack([b * epsilon for b, epsilon in self.noises()]).sum(0)
            x = self.x.to(noise)
            mixed = output_of(self.scheduler, self.index, self.pair, x, noise).to(self.x)
        return as_predicted(self.scheduler, mixed)

    def x0(self) -> Tensor:
        """Denoised estimate of the pool, (N, *)."""
        if self.pair[0] == 0:
            parts = [
                e.b * estimate_x0(self.scheduler, self.index, self.pair, self.x, e.output)
                for e in self.experts
            ]
            return torch.stack(parts).sum(0) / self.total
        path = Gaussian(*self.pair, 1.0, 0.0)
        return pool_estimate(self.x, path, self.noises()).to(self.x)

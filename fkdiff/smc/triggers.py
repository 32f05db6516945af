r"""When to resample, and how: the settings of a particle cloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.smc.resampling import SCHEMES
from fkdiff.smc.weights import ess

__all__ = ["Resample"]


@dataclass(frozen=True)
class Resample:
    r"""Resample a prompt's particles where all the given conditions hold.

    Particles of equal weight, and a single particle, are never resampled. Whatever the
    conditions, $\exp(\log Z)$ stays unbiased (but for the scheme `beam`).

    Arguments:
        scheme: Name of a scheme in `fkdiff.smc.SCHEMES`.
        ess: Fire where the effective sample size is below this fraction of K, in [0, 1]; None
            for no such condition.
        window: Fire while (index + 1) / total lies between these fractions of the run.
        every: Fire at every n-th transition; None for no such condition.
        steps: Fire at these transitions, counted from 0; None for no such condition.
        conditional_ess: Fire where the conditional effective sample size of the last increment
            is below this fraction of K, in [0, 1]; None for no such condition.
        entropic: Select in proportion to $w^\tau$, $\tau = \min(1, \mathrm{ESS} / (K (1 -
            \mathrm{progress})))$, and keep $w^{1 - \tau}$ as a weight: softer early in a run.
        partial: Resample only this fraction of the slots, in (0, 1], among themselves: half of
            them the lightest, half the heaviest. None for all.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        | On adaptive resampling strategies for sequential Monte Carlo methods
        | (Del Moral et al., 2012)
        | https://arxiv.org/abs/1203.0464
        | Entropic particle filtering: https://arxiv.org/abs/2510.05825

    Example:
        >>> resample = Resample("ssp", ess=0.5, window=(0.2, 0.9), every=5)
        >>> [index for index in range(20) if resample.may_fire(index, 20)]
        [4, 9, 14]
    """

    scheme: str = "systematic"
    ess: float | None = 0.5
    window: tuple[float, float] = (0.2, 0.9)
    every: int | None = None
    steps: Sequence[int] | None = None
    conditional_ess: float | None = None
    entropic: bool = False
    partial: float | None = None

    def __post_init__(self) -> None:
        known = ", ".join(SCHEMES)
        _check(self.scheme in SCHEMES, "scheme", f"one of {known}", self.scheme, "'systematic'")
        for name in ("ess", "conditional_ess"):
            value = getattr(self, name)
            valid = value is None or 0 <= value <= 1
            _check(valid, name, "in [0, 1]", value, "0.5 to resample below half")
        window = tuple(self.window)
        valid = len(window) == 2 and 0 <= window[0] <= window[1] <= 1
        rule = "two fractions of the run, 0 <= first <= last <= 1"
        _check(valid, "window", rule, self.window, "(0, 1) for the whole run")
        valid = self.every is None or self.every >= 1
        _check(valid, "every", "at least 1", self.every, "None to drop this condition")
        valid = self.steps is None or all(step >= 0 for step in self.steps)
        rule = "transitions counted from 0"
        _check(valid, "steps", rule, self.steps, "window=(0.9, 1) for the end of the run")
        valid = self.partial is None or 0 < self.partial <= 1
        _check(valid, "partial", "in (0, 1]", self.partial, "None to resample all slots")
        object.__setattr__(self, "window", window)
        if self.steps is not None:
            object.__setattr__(self, "steps", tuple(self.steps))

    def may_fire(self, index: int, total: int) -> bool:
        """Whether transition `index` of `total` can resample, for some weights.

        Example:
            >>> Resample(window=(0.5, 1), steps=(1, 8)).may_fire(1, 10)
            False
        """
        first, last = self.window
        return (
            # Fractions such as 0.3 * 10 don't come out whole.
            first * total - 1e-9 <= index + 1 <= last * total + 1e-9
            and (self.every is None or (index + 1) % self.every == 0)
            and (self.steps is None or index in self.steps)
            and self.ess != 0
            and self.conditional_ess != 0
        )

    def fires(
        self, index: int, total: int, log_w: Tensor, conditional: Tensor | None = None
    ) -> Tensor:
        """Which prompts to resample at a transition.

        Arguments:
            index: Transition, counted from 0.
            total: Number of transitions.
            log_w: Log-weights, shape (P, K).
            conditional: Conditional effective sample size of the last increment, shape (P,);
                None where there was none since the last resampling.

        Returns:
            Mask, shape (P,), bool.

        Example:
            >>> log_w = torch.tensor([[0.0, 0.0, -9.0], [1.0, 1.0, 1.0]])
            >>> Resample(ess=0.9).fires(4, 10, log_w)
            tensor([ True, False])
        """
        particles = log_w.shape[1]
        if not self.may_fire(index, total):
            return torch.zeros(len(log_w), dtype=torch.bool)
        unequal = log_w.amax(1) > log_w.amin(1)  # false for one particle
        if self.ess is not None and unequal.any():
            unequal &= ess(log_w) < self.ess * particles
        if self.conditional_ess is not None:
            if conditional is None:
                return torch.zeros_like(unequal)
            unequal &= conditional < self.conditional_ess * particles
        return unequal


def _check(valid: bool, name: str, rule: str, value: Any, remedy: str) -> None:
    if not valid:
        raise ValueError(f"{name} must be {rule}, got {value!r}; use {remedy}")

r"""The particle cloud: weights that are carried, selected and traced.

Nothing here knows what a particle is: callers hold the particles and permute them by the rows
that `Cloud.resample` returns. Weights live on the CPU in float64.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fkdiff.smc.resampling import SCHEMES, ancestors
from fkdiff.smc.triggers import Resample
from fkdiff.smc.weights import conditional_ess, ess

__all__ = ["Cloud", "Rows", "WeightsError"]

Rows: TypeAlias = Tensor
"""Parent row of each slot, shape (P K,), int64, prompt-major."""


class WeightsError(ValueError):
    """Weights that stand for no law: NaN, infinite, or all zero."""


class Cloud:
    r"""K weighted particles for each of P prompts.

    Log-weights are unnormalised and carried through resampling, so that at any time
    $\log \hat Z = \mathrm{logsumexp}(\log w) - \log K$, and $E[\hat Z] = Z$ for every K,
    unbiased scheme and trigger.

    Arguments:
        prompts: Number P of prompts.
        particles: Number K of particles of each prompt.
        resample: When and how to resample; None never does.
        generators: P generators on the CPU, one for the selections of each prompt; drawn from
            only where the prompt is resampled.

    Raises:
        ValueError: If there are no prompts or particles, or not P generators.

    Example:
        >>> cloud = Cloud(1, 4, Resample(ess=0.5), [torch.Generator().manual_seed(0)])
        >>> cloud.reweight(torch.tensor([[-9.0, -9.0, 0.0, -9.0]]))
        >>> cloud.resample(index=4, total=10)
        tensor([2, 2, 2, 2])
        >>> round(cloud.ess.item(), 3), round(cloud.log_z.item(), 3)
        (4.0, -1.386)
    """

    def __init__(
        self,
        prompts: int,
        particles: int,
        resample: Resample | None,
        generators: Sequence[torch.Generator],
    ) -> None:
        for name, value in (("prompts", prompts), ("particles", particles)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; use 1 for a plain run")
        if len(generators) != prompts:
            raise ValueError(
                f"generators must be one per prompt ({prompts}), got {len(generators)}; "
                "make them with torch.Generator().manual_seed(...)"
            )
        self.log_w = torch.zeros(prompts, particles, dtype=torch.float64)
        self.lineage: list[Rows | None] = []
        self.settings = resample
        self._generators = list(generators)
        self._conditional: Tensor | None = None
        self._ess: tuple[Tensor, Tensor] | None = None  # of which weights, and what it is

    @property
    def log_z(self) -> Tensor:
        """Log-normaliser, shape (P,), float64."""
        return self.log_w.logsumexp(1) - math.log(self.log_w.shape[1])

    @property
    def weights(self) -> Tensor:
        """Normalised weights, shape (P, K), float64, rows that sum to 1."""
        return self.log_w.softmax(1)

    @property
    def ess(self) -> Tensor:
        """Effective sample size, shape (P,), float64."""
        if self._ess is None or self._ess[0] is not self.log_w:
            self._ess = self.log_w, ess(self.log_w)
        return self._ess[1]

    def reweight(self, d: Tensor) -> None:
        r"""Add increments to the log-weights.

        A particle of weight zero keeps it, whatever its increment.

        Arguments:
            d: Increments of the log-weights, shape (P, K); $-\infty$ kills a particle.

        Raises:
            ValueError: If an increment has the wrong shape.
            WeightsError: If one is NaN or $+\infty$, or if no particle of a prompt is left with a
                positive weight.

        Example:
            >>> cloud = Cloud(1, 2, None, [torch.Generator()])
            >>> cloud.reweight(torch.tensor([[0.0, float("nan")]]))
            Traceback (most recent call last):
            fkdiff.smc.cloud.WeightsError: log-weight increment is nan for prompt 0, ...
        """
        if d.shape != self.log_w.shape:
            raise ValueError(
                f"increments must have shape {tuple(self.log_w.shape)}, got {tuple(d.shape)}; "
                "use d.reshape(prompts, particles)"
            )
        d = d.detach().to(self.log_w)
        log_w = self.log_w + d
        if not math.isfinite(float(log_w.sum())):  # else there is nothing to refuse
            d = _accepted(self.log_w, d)
            log_w = self.log_w + d
        if self.settings is not None and self.settings.conditional_ess is not None:
            self._conditional = conditional_ess(self.log_w, d)
        self.log_w = log_w

    def resample(self, index: int, total: int) -> Rows | None:
        """Select particles of the prompts whose conditions hold, once per transition.

        Arguments:
            index: Transition, counted from 0.
            total: Number of transitions.

        Returns:
            Parent row of each slot, shape (P K,), int64; None where nothing moved.
        """
        rows = None
        if self.settings is not None:
            fire = self.settings.fires(index, total, self.log_w, self._conditional)
            if fire.any():
                rows = self._select(fire.nonzero(), (index + 1) / total, self.settings)
            self._conditional = None
        self.lineage.append(rows)
        return rows

    def _select(self, fire: Tensor, progress: float, settings: Resample) -> Rows | None:
        """Select within the slots of firing prompts, shape (F, 1), and correct the weights.

        By a law rho over m slots, log w <- log w[a] - log(m rho[a]); here rho is proportional to
        w^tau, and tau = 1 gives all m slots the mean weight.
        """
        slots = self._slots(fire, settings)
        log_w = self.log_w[fire, slots]
        tau = self._temperature(fire, progress) if settings.entropic else 1.0
        generators = [self._generators[p] for p in fire.flatten().tolist()]
        counts = torch.ones(self.log_w.shape, dtype=torch.int64)
        counts[fire, slots] = SCHEMES[settings.scheme]((tau * log_w).softmax(1), generators)
        rows = ancestors(counts)
        parents = self.log_w.flatten()[rows].reshape(self.log_w.shape)[fire, slots]
        log_sum = (tau * log_w).logsumexp(1, keepdim=True)
        self.log_w = self.log_w.index_put(
            (fire, slots), (1 - tau) * parents + log_sum - math.log(slots.shape[1])
        )
        return rows if bool((counts != 1).any()) else None

    def _slots(self, fire: Tensor, settings: Resample) -> Tensor:
        """Slots to resample, shape (F, m), ascending: all, or the lightest and the heaviest."""
        particles = self.log_w.shape[1]
        if settings.partial is None:
            return torch.arange(particles).expand(len(fire), -1)
        size = max(2, round(settings.partial * particles))
        order = self.log_w[fire.flatten()].argsort(dim=1, stable=True)
        chosen = torch.cat([order[:, : size // 2], order[:, size // 2 - size :]], 1)
        return chosen.sort(1).values

    def _temperature(self, fire: Tensor, progress: float) -> Tensor:
        """Exponent of the selection law, shape (F, 1), that reaches 1 by the end."""
        share = ess(self.log_w[fire.flatten()])[:, None] / self.log_w.shape[1]
        return (share / (1 - progress)).clamp(max=1) if progress < 1 else torch.ones_like(share)

    def ancestors(self) -> Tensor:
        """Slot before the first transition that each slot descends from.

        Returns:
            Slots, shape (T, P, K), int64, in [0, K): entry t after transition t.

        Example:
            >>> cloud = Cloud(1, 3, None, [torch.Generator()])
            >>> cloud.lineage = [torch.tensor([0, 1, 1]), None, torch.tensor([2, 1, 2])]
            >>> cloud.ancestors().tolist()
            [[[0, 1, 1]], [[0, 1, 1]], [[1, 1, 1]]]
            >>> cloud.survivors().flatten().tolist(), cloud.coalescence()
            ([2, 2, 1], 2)
        """
        prompts, particles = self.log_w.shape
        origin = torch.arange(particles).repeat(prompts)
        origins = [origin := origin if rows is None else origin[rows] for rows in self.lineage]
        return torch.stack(origins or [origin[:0]]).reshape(-1, prompts, particles)

    def survivors(self) -> Tensor:
        """Number of distinct ancestors before the first transition, shape (T, P), int64."""
        ordered = self.ancestors().sort(2).values
        return 1 + ordered.diff(dim=2).ne(0).sum(2)

    def coalescence(self, prompt: int = 0) -> int | None:
        """First transition after which a prompt's particles share one ancestor, None if none."""
        shared = (self.survivors()[:, prompt] == 1).nonzero().flatten()
        return int(shared[0]) if len(shared) else None


def _accepted(log_w: Tensor, d: Tensor) -> Tensor:
    """Increments without those of dead particles: numbers below inf that leave one alive."""
    d = d.masked_fill(log_w.isneginf(), 0)
    for bad in (d.isnan(), d.isposinf()):
        _refuse(bad, d)
    lost = (log_w + d).isneginf().all(1).nonzero().flatten().tolist()
    if lost:
        raise WeightsError(
            f"all particles of prompt {lost[0]} have weight zero; use more particles, a "
            "smaller scale, or a reward that is finite everywhere"
        )
    return d


def _refuse(bad: Tensor, d: Tensor) -> None:
    if bad.any():
        prompt = int(bad.any(1).nonzero()[0])
        particles = bad[prompt].nonzero().flatten().tolist()
        raise WeightsError(
            f"log-weight increment is {d[prompt, particles[0]].item()} for prompt {prompt}, "
            f"particles {particles}; rewards must be numbers below infinity"
        )

r"""The automatic choice of K': how far guesses are off, and how much of that denoising removes.

A calibration looks at decisions of closed-loop runs: the spread s of the policy's own actions for
the same observation, and the error e of the shifted last chunk against their mean, element by
element over the actions that get executed. Those chunks were decided from noise. In a warm loop
the guess also holds what is left of earlier errors: an action that was first planned
n = H / executed decisions ago has gathered $e (C + C^2 + \dots + C^n)$. The rule is the least K'
with

$$\sqrt{\mathrm{mean}\, \left(e \sum_{j=1}^n C(K', s)^j\right)^2} \le \mathrm{tolerance},$$

C for the levels and the solver of the warm decision, times $\alpha_{K'}$ for a noised guess. With
the first power alone, K' comes out far too small: the policy hardly looks at what it sees. The
tolerance is a tenth of the policy's own spread. What remains then adds a hundredth to the mean
square deviation of actions, and guesses ten times worse than those of the calibration, such as
after a disturbance that no jump announces, still end within the spread.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkdiff.policy.contraction import contraction_factor, start_scale
from fkdiff.policy.denoising import Denoiser, denoise
from fkdiff.policy.levels import Levels
from fkdiff.policy.warm_start import WarmStart, shifted
from fkdiff.processes import randn_rows
from fkdiff.processes.streams import slot_generators

__all__ = ["Calibration", "Choice", "Recording", "calibrate"]

SHARE = 0.1
"""Bearable remaining error, in units of the policy's own spread."""
MARGIN = 1.5
"""Limits for jumps and errors are this many times the quantile of ordinary running."""
QUANTILE = 0.99


@dataclass(frozen=True)
class Recording:
    """Consecutive decisions of one episode: `observations` (S, O) and `chunks` (S, H, D)."""

    observations: Tensor
    chunks: Tensor


@dataclass(frozen=True)
class Choice:
    """The chosen K' and why.

    Arguments:
        start: K'; T where no warm start is good enough.
        remaining: Predicted error of an action in a warm loop, root mean square.
        tolerance: What was bearable.
        table: Rows (K', C at the calibration's mean square spread, remaining error), all K'.
    """

    start: int
    remaining: float
    tolerance: float
    table: tuple[tuple[int, float, float], ...]

    def explain(self) -> str:
        """The choice in one line."""
        return (
            f"K' = {self.start} of {len(self.table) + 1}: predicted remaining error "
            f"{self.remaining:.3g} within tolerance {self.tolerance:.3g}"
            if self.start <= len(self.table)
            else f"no K' brings the error below {self.tolerance:.3g}: decisions are cold"
        )


@dataclass(frozen=True)
class Calibration:
    """What a calibration run measured; saves itself as JSON.

    Arguments:
        spread: Deviation of each executed action's number over draws, one a decision.
        error: Error of the guess of each, in the same order.
        executed: Actions executed between decisions.
        horizon: H, actions in a chunk.
        observation_scale: Quantile of the changes of each number of the observation, shape (O,).
        distances: Distance of each new chunk from its guess, over the executed actions.
    """

    spread: tuple[float, ...]
    error: tuple[float, ...]
    executed: int
    horizon: int
    observation_scale: tuple[float, ...]
    distances: tuple[float, ...]

    @property
    def tolerance(self) -> float:
        """A tenth of the policy's own spread, root mean square: less is lost in it."""
        return SHARE * _rms(self.spread)

    @property
    def guess_error(self) -> float:
        """How far guesses are off, root mean square."""
        return _rms(self.error)

    @property
    def decisions(self) -> int:
        """Decisions that an action takes part in before it is executed."""
        return max(self.horizon // self.executed, 1)

    @property
    def jump(self) -> float:
        """A change of a number, in units of its scale, that hardly occurs in ordinary running."""
        return MARGIN

    @property
    def max_error(self) -> float:
        """A distance from the guess that hardly occurs in ordinary running."""
        distances = torch.tensor(self.distances, dtype=torch.float64)
        return MARGIN * float(distances.quantile(QUANTILE))

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """Largest change of a number, in units of its own usual one, shape (n,).

        An average over all numbers would hide an object that moves while the rest goes on.
        """
        scale = torch.tensor(self.observation_scale).to(before)
        return ((after - before) / scale).abs().amax(1)

    def remaining(self, levels: Levels, start: int, warm: WarmStart) -> float:
        """Predicted error of an executed action in a warm loop from K' = start."""
        plan = levels.plan(start, warm.evaluations)
        spread = torch.tensor(self.spread, dtype=torch.float64)
        factor = start_scale(plan, warm.noise) * contraction_factor(plan, spread)
        gathered = torch.stack([factor**j for j in range(1, self.decisions + 1)]).sum(0)
        return _rms((gathered * torch.tensor(self.error, dtype=torch.float64)).tolist())

    def choose(self, levels: Levels, warm: WarmStart | None = None) -> Choice:
        """The least K' whose remaining error is bearable.

        Arguments:
            levels: The policy's levels, with the solver that will run.
            warm: Evaluations, noise and tolerance of the warm decisions; its `start` is ignored.
        """
        warm = warm or WarmStart()
        tolerance = self.tolerance if warm.tolerance is None else warm.tolerance
        rows = []
        for start in range(1, len(levels)):
            plan = levels.plan(start, warm.evaluations)
            factor = float(contraction_factor(plan, _rms(self.spread)))
            factor *= start_scale(plan, warm.noise)
            rows.append((start, factor, self.remaining(levels, start, warm)))
        good = next(((k, left) for k, _, left in rows if left <= tolerance), (len(levels), 0.0))
        return Choice(*good, tolerance, tuple(rows))

    def save(self, file: Path) -> None:
        """Write JSON."""
        file.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file isn't a calibration.
        """
        try:
            stored: Any = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            stored = None
        if not _measured(stored):
            raise ValueError(
                f"{file} isn't a calibration; make one with `fkdiff policy calibrate`"
            )
        values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**values)


def _measured(stored: Any) -> bool:
    """Whether an object holds what a calibration measures, in numbers that can be used."""
    if not isinstance(stored, dict) or set(stored) != set(Calibration.__dataclass_fields__):
        return False
    counts, sizes = ("executed", "horizon"), ("spread", "observation_scale", "distances")
    lists = (*sizes, "error")
    return (
        all(type(stored[name]) is int and stored[name] >= 1 for name in counts)
        and bool(stored["spread"])
        and all(isinstance(stored[name], list) for name in lists)
        and all(type(v) in (int, float) and math.isfinite(v) for n in lists for v in stored[n])
        and all(v >= 0 for name in sizes for v in stored[name])
    )


def calibrate(
    denoiser: Denoiser,
    levels: Levels,
    recordings: Sequence[Recording],
    executed: int = 1,
    draws: int = 8,
    evaluations: int | None = None,
    fill: Any = "repeat",
    most: int = 300,
    seed: int = 0,
) -> Calibration:
    """Measure spread and guess error on recorded decisions.

    Arguments:
        denoiser: The policy's network.
        levels: Its levels.
        recordings: Consecutive decisions, at least two an episode.
        executed: Actions executed between them, at least 1.
        draws: Full samples for each observation, at least 2.
        evaluations: Denoiser calls of a full sample, None for every level.
        fill: How a shifted chunk is filled up.
        most: Decisions that are sampled anew, evenly spaced among those recorded.
        seed: Seed of the samples.

    Raises:
        ValueError: If there is nothing to compare.
    """
    usable = [r for r in recordings if len(r.chunks) > 1]
    if not usable or draws < 2 or executed < 1:
        raise ValueError(
            "recordings must hold at least two consecutive decisions, draws be at least 2 and "
            f"executed at least 1, got {len(usable)} episodes, {draws} draws, {executed} executed"
        )
    guesses = torch.cat([shifted(r.chunks[:-1], executed, fill) for r in usable])
    seen = torch.cat([r.observations[1:] for r in usable])
    change = torch.cat([r.observations.diff(dim=0) for r in usable])
    new = torch.cat([r.chunks[1:] for r in usable])
    kept = torch.linspace(0, len(seen) - 1, min(most, len(seen))).round().long()
    generators = slot_generators(seed, len(kept), draws)
    rows = kept.repeat_interleave(draws)
    with torch.no_grad():
        samples = denoise(
            denoiser,
            levels,
            levels.plan(len(levels), evaluations),
            randn_rows(guesses[rows], generators),
            seen[rows],
            lambda z: randn_rows(z, generators),
        )
    samples = samples.unflatten(0, (len(kept), draws))[:, :, :executed]
    spread, error = samples.std(1), guesses[kept, :executed] - samples.mean(1)
    scale = change.abs().quantile(QUANTILE, dim=0)
    scale = scale.clamp(min=max(float(scale.max()) * 1e-2, 1e-12))
    return Calibration(
        spread=_rounded(spread),
        error=_rounded(error),
        executed=executed,
        horizon=new.shape[1],
        observation_scale=_rounded(scale),
        distances=_rounded((new - guesses)[:, :executed].square().mean((1, 2)).sqrt()),
    )


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values))


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{v:.5g}") for v in values.flatten().tolist())

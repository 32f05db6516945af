"""Decisions: chunks of actions for observations, cold from noise or warm from the last chunk."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor

from fkdiff.policy.calibration import Calibration, Choice
from fkdiff.policy.denoising import Denoiser, denoise
from fkdiff.policy.levels import Levels, Plan
from fkdiff.policy.warm_start import ChunkMemory, WarmStart, shifted
from fkdiff.processes import randn_rows
from fkdiff.processes.streams import stream

__all__ = ["ChunkSampler", "Decision"]

COLD_EVALUATIONS = 10


@dataclass(frozen=True)
class Decision:
    """What was decided for n environments.

    Arguments:
        actions: Chunks to execute, shape (n, H, D).
        chunks: The same in the policy's units, before discrete dimensions are decided.
        cold: Whether each was taken from noise, shape (n,), bool.
        held: Whether each is the old chunk moved on, for want of an observation, shape (n,), bool.
        evaluations: Denoiser calls of each, shape (n,), int64.
    """

    actions: Tensor
    chunks: Tensor
    cold: Tensor
    held: Tensor
    evaluations: Tensor


class ChunkSampler:
    """Takes decisions with a trained denoiser; remembers the last chunk of each environment.

    Without `warm` every decision is cold. Noise comes from one stream for each environment, which
    `reset` doesn't rewind: episodes differ.

    Arguments:
        denoiser: (x (n, H, D), t (n,), observation (n, O)) -> prediction (n, H, D).
        levels: Its trained noise levels.
        shape: (H, D), actions in a chunk and numbers in an action.
        warm: How decisions start, None for cold always.
        calibration: Needed by `WarmStart(start="auto")`, and by `jump` for its scale.
        observation_size: O, None to take it from the first observation.
        cold_evaluations: Denoiser calls of a cold decision where `warm` doesn't say.
        seed: Seed of all noise.

    Raises:
        ValueError: If a setting needs a calibration that isn't there, or is out of range.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> sampler = ChunkSampler(
        ...     lambda x, t, o: x, Levels.of(DDIMScheduler(100)), (8, 2), WarmStart(start=20)
        ... )
        >>> first = sampler.decide(torch.zeros(1, 3))
        >>> second = sampler.decide(torch.zeros(1, 3), executed=1)
        >>> first.evaluations.tolist(), second.evaluations.tolist()
        ([10], [1])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        levels: Levels,
        shape: tuple[int, int],
        warm: WarmStart | None = None,
        calibration: Calibration | None = None,
        observation_size: int | None = None,
        cold_evaluations: int | None = None,
        seed: int = 0,
    ) -> None:
        self.denoiser, self.levels, self.shape = denoiser, levels, shape
        self.warm, self.calibration = warm, calibration
        self.observation_size, self.seed = observation_size, seed
        self.memory = ChunkMemory()
        self.micro_batch: int | None = None
        self._generators: dict[int, torch.Generator] = {}
        settings = warm or WarmStart(start=len(levels))
        self.choice = self._choose(settings)
        chosen = settings.start if self.choice is None else self.choice.start
        self.start = min(int(chosen), len(levels)) if settings.skipping is None else 1
        self.cold_plan = levels.plan(len(levels), self._cold(settings, cold_evaluations))
        self.warm_plan = (
            levels.plan(self.start, settings.evaluations)
            if settings.skipping is None
            else levels.skipping(settings.skipping)
        )
        if settings.jump is not None and calibration is None:
            raise ValueError("jump must have a calibration for its scale; pass calibration=")

    def _cold(self, settings: WarmStart, stated: int | None) -> int | None:
        """Denoiser calls of a cold decision, None for every level."""
        if settings.cold_evaluations is not None:
            return settings.cold_evaluations
        if stated is not None and stated < 1:
            raise ValueError(f"cold_evaluations must be at least 1 or None, got {stated}")
        few = COLD_EVALUATIONS if self.levels.eta < 1 else None
        return few if stated is None else stated

    def _choose(self, settings: WarmStart) -> Choice | None:
        if settings.start != "auto" or settings.skipping is not None:
            return None
        if self.calibration is None:
            raise ValueError(
                "start must be a number without a calibration, got 'auto'; make one with "
                "fkdiff.policy.calibrate or `fkdiff policy calibrate`"
            )
        return self.calibration.choose(self.levels, settings)

    @property
    def is_cold(self) -> bool:
        """Whether every decision is taken from noise."""
        return self.warm is None or self.start >= len(self.levels)

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the chunks of some environments, None for all: their next decision is cold."""
        self.memory.reset(env_ids)

    @torch.no_grad()
    def decide(
        self,
        observation: Tensor,
        env_ids: Sequence[int] | None = None,
        executed: int = 1,
    ) -> Decision:
        """Decide for n environments at once.

        Arguments:
            observation: Shape (n, O), finite.
            env_ids: A number for each environment, all different; None for 0 to n - 1.
            executed: Actions executed since the last decision, in [0, H].

        Raises:
            ValueError: If an argument is out of range; nothing is changed then.
        """
        observation, ids, bad = self.check(observation, env_ids, executed)
        known = self.memory.known(ids)
        lost = [b and not k for b, k in zip(bad, known, strict=True)]
        if any(lost):
            raise ValueError(
                f"observation must be finite, got {_named(ids, lost)}; no chunk to hold there yet"
            )
        guess = self._guess(ids, known, executed)
        new = self._surprised(observation, ids, known)
        cold = [not b and (n or self.is_cold) for b, n in zip(bad, new, strict=True)]
        warm = [not b and not c for b, c in zip(bad, cold, strict=True)]
        chunks = self._run(self.warm_plan, warm, self._begin_warm, guess, observation, ids)
        far = self._far(chunks, guess, max(executed, 1))
        cold = [c or w and f for c, w, f in zip(cold, warm, far, strict=True)]
        chunks = self._run(self.cold_plan, cold, self.noise, chunks, observation, ids)
        if any(bad):
            last = self.memory.observations(list(compress(ids, bad)))
            observation = _replaced(observation, bad, last.to(observation))
        self.memory.keep(ids, chunks, observation)
        plans = len(self.cold_plan), len(self.warm_plan)
        count = [c * plans[0] + w * plans[1] for c, w in zip(cold, warm, strict=True)]
        columns = torch.tensor([cold, bad, count])  # one tensor is faster than three
        return Decision(
            self.executed_units(chunks), chunks, columns[0] > 0, columns[1] > 0, columns[2]
        )

    def noise(self, ids: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal noise like `like` (n, *), a row from each environment's stream."""
        for env in ids:
            if env not in self._generators:
                self._generators[env] = stream(self.seed, env, "policy")
        return randn_rows(like, [self._generators[env] for env in ids])

    def executed_units(self, chunks: Tensor) -> Tensor:
        """Chunks with their discrete dimensions decided, as they are executed."""
        discrete = None if self.warm is None else self.warm.discrete
        return chunks if discrete is None else discrete.to_executed(chunks)

    def check(
        self, observation: Tensor, env_ids: Sequence[int] | None, executed: int
    ) -> tuple[Tensor, list[int], list[bool]]:
        """The observation, environment numbers, and which rows aren't finite.

        Raises:
            ValueError: If an argument is out of range.
        """
        if observation.ndim != 2:
            raise ValueError(f"observation must have shape (n, O), got {tuple(observation.shape)}")
        size = observation.shape[1] if self.observation_size is None else self.observation_size
        if observation.shape[1] != size:
            raise ValueError(
                f"observation must hold {size} numbers, as the policy was trained on, "
                f"got {observation.shape[1]}"
            )
        ids = list(range(len(observation))) if env_ids is None else [int(e) for e in env_ids]
        if len(ids) != len(observation) or len(set(ids)) != len(ids):
            raise ValueError(
                f"env_ids must be {len(observation)} different numbers, one a row, got {ids}"
            )
        if not 0 <= executed <= self.shape[0]:
            raise ValueError(
                f"executed must be in [0, {self.shape[0]}], the chunk's horizon, got {executed}; "
                "decide more often, or train a longer horizon"
            )
        finite = observation.isfinite()
        bad = [False] * len(ids) if bool(finite.all()) else (~finite.all(1)).tolist()
        if any(bad) and (self.warm is None or self.warm.on_bad == "refuse"):
            raise ValueError(
                f"observation must be finite, got {_named(ids, bad)}; check the sensor, or go on "
                "with the last chunk: WarmStart(on_bad='hold')"
            )
        self.observation_size = size
        return observation, ids, bad

    def _guess(self, ids: list[int], known: list[bool], executed: int) -> Tensor:
        """Shifted chunks where there are any, zeros elsewhere, shape (n, H, D)."""
        own = list(compress(ids, known))
        if not own:
            return torch.zeros(len(ids), *self.shape)
        chunks = self.memory.chunks(own)
        fill = "repeat" if self.warm is None else self.warm.fill
        noise = self.noise(own, chunks) if fill == "noise" else None
        moved = shifted(chunks, executed, fill, noise)
        return _replaced(moved.new_zeros(1).expand(len(ids), *self.shape), known, moved)

    def _surprised(self, observation: Tensor, ids: list[int], known: list[bool]) -> list[bool]:
        """Which environments are new, or see what their last chunk can't have foreseen."""
        own = list(compress(ids, known))
        if self.warm is None or self.warm.jump is None or not own:
            return [not k for k in known]
        assert self.calibration is not None
        seen = observation if len(own) == len(ids) else observation[known]
        change = iter(self.calibration.change(self.memory.observations(own), seen).tolist())
        return [not k or next(change) > self.warm.jump for k in known]

    def _begin_warm(self, ids: list[int], guess: Tensor) -> Tensor:
        assert self.warm is not None
        warm, first = self.warm, self.warm_plan.path[0]
        noise = self.noise(ids, guess) if warm.noise not in ("none", 0) else None
        return warm.start_from(guess, first.alpha, first.sigma, noise)

    def _run(
        self,
        plan: Plan,
        rows: list[bool],
        begin: Callable[[list[int], Tensor], Tensor],
        chunks: Tensor,
        observation: Tensor,
        ids: list[int],
    ) -> Tensor:
        """`chunks` with those where `rows` holds begun anew from theirs and denoised."""
        own = list(compress(ids, rows))
        if not own:
            return chunks
        everyone = len(own) == len(ids)
        seen = observation if everyone else observation[rows]
        x = begin(own, chunks if everyone else chunks[rows]).to(seen.device)
        clean = denoise(
            self.denoiser, self.levels, plan, x, seen, lambda z: self.noise(own, z), self
        )
        return _replaced(chunks, rows, clean.to(chunks))

    def _far(self, chunks: Tensor, guess: Tensor, executed: int) -> list[bool]:
        """Which chunks (n, H, D) were denoised to somewhere far from their guess."""
        if self.warm is None or self.warm.max_error is None:
            return [False] * len(chunks)
        change = (chunks - guess)[:, :executed].flatten(1)
        limit = self.warm.max_error * math.sqrt(change.shape[1])
        return [size > limit for size in torch.linalg.vector_norm(change, dim=1).tolist()]


def _replaced(whole: Tensor, rows: list[bool], values: Tensor) -> Tensor:
    """`whole` with `values` in the rows where `rows` holds."""
    if len(values) == len(whole):
        return values
    whole = whole.clone()
    whole[rows] = values
    return whole


def _named(ids: list[int], bad: list[bool]) -> str:
    envs = ", ".join(str(env) for env in list(compress(ids, bad))[:8])
    return f"NaN or infinity for environments {envs}"

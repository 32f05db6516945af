"""Decisions: chunks of actions for observations, cold from noise or warm from the last chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        self._generators: dict[int, torch.Generator] = {}
        settings = warm or WarmStart(start=len(levels))
        self.choice = self._choose(settings)
        chosen = settings.start if self.choice is None else self.choice.start
        self.start = min(int(chosen), len(levels)) if settings.skipping is None else 1
        few = COLD_EVALUATIONS if levels.eta < 1 else None
        self.cold_plan = levels.plan(
            len(levels), settings.cold_evaluations or cold_evaluations or few
        )
        self.warm_plan = (
            levels.plan(self.start, settings.evaluations)
            if settings.skipping is None
            else levels.skipping(settings.skipping)
        )
        if settings.jump is not None and calibration is None:
            raise ValueError("jump must have a calibration for its scale; pass calibration=")

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
        self.memory.reset(None if env_ids is None else list(env_ids))

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
        if bool((bad & ~known).any()):
            raise ValueError(
                f"observation must be finite, got {_named(bad, ids)}; no chunk to hold there yet"
            )
        guess = self._guess(ids, known, executed)
        cold = (~known | self._jumped(observation, ids, known) | self.is_cold) & ~bad
        chunks, evaluations = guess.clone(), torch.zeros(len(ids), dtype=torch.int64)
        warm = ~cold & ~bad
        self._run_warm(warm, chunks, observation, ids, evaluations)
        if self.warm is not None and self.warm.max_error is not None:
            cold |= warm & (self._distance(chunks, guess, max(executed, 1)) > self.warm.max_error)
        self._run_cold(cold, chunks, observation, ids, evaluations)
        seen = self._last_seen(observation, ids, bad)
        self.memory.keep(ids, chunks, seen)
        return Decision(self.executed_units(chunks), chunks, cold, bad, evaluations)

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
    ) -> tuple[Tensor, list[int], Tensor]:
        """The observation, environment numbers, and which rows aren't finite, shape (n,), bool.

        Raises:
            ValueError: If an argument is out of range.
        """
        if observation.ndim != 2:
            raise ValueError(f"observation must have shape (n, O), got {tuple(observation.shape)}")
        size = self.observation_size or observation.shape[1]
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
        bad = ~observation.isfinite().all(1).cpu()
        if bool(bad.any()) and (self.warm is None or self.warm.on_bad == "refuse"):
            raise ValueError(
                f"observation must be finite, got {_named(bad, ids)}; check the sensor, or go on "
                "with the last chunk: WarmStart(on_bad='hold')"
            )
        self.observation_size = size
        return observation, ids, bad

    def _guess(self, ids: list[int], known: Tensor, executed: int) -> Tensor:
        """Shifted chunks where there are any, zeros elsewhere."""
        guess = torch.zeros(len(ids), *self.shape)
        if bool(known.any()):
            kept = [env for env, knows in zip(ids, known.tolist(), strict=True) if knows]
            chunks = self.memory.chunks(kept)
            fill = "repeat" if self.warm is None else self.warm.fill
            noise = self.noise(kept, chunks) if fill == "noise" else None
            guess = guess.to(chunks)
            guess[known.to(chunks.device)] = shifted(chunks, executed, fill, noise)
        return guess

    def _jumped(self, observation: Tensor, ids: list[int], known: Tensor) -> Tensor:
        jumped = torch.zeros(len(ids), dtype=torch.bool)
        if self.warm is None or self.warm.jump is None or not bool(known.any()):
            return jumped
        assert self.calibration is not None
        kept = [env for env, knows in zip(ids, known.tolist(), strict=True) if knows]
        change = self.calibration.change(
            self.memory.observations(kept), observation[known.to(observation.device)]
        )
        jumped[known] = change > self.warm.jump
        return jumped

    def _run_warm(
        self, rows: Tensor, chunks: Tensor, observation: Tensor, ids: list[int], count: Tensor
    ) -> None:
        if self.warm is None:
            return
        warm, first = self.warm, self.warm_plan.path[0]

        def begin(own: list[int], guess: Tensor) -> Tensor:
            noise = self.noise(own, guess) if warm.noise not in ("none", 0) else None
            return warm.start_from(guess, first.alpha, first.sigma, noise)

        self._run(self.warm_plan, rows, begin, chunks, observation, ids, count)

    def _run_cold(
        self, rows: Tensor, chunks: Tensor, observation: Tensor, ids: list[int], count: Tensor
    ) -> None:
        self._run(self.cold_plan, rows, self.noise, chunks, observation, ids, count)

    def _run(
        self,
        plan: Plan,
        rows: Tensor,
        begin: Callable[[list[int], Tensor], Tensor],
        chunks: Tensor,
        observation: Tensor,
        ids: list[int],
        count: Tensor,
    ) -> None:
        """Denoise some rows of `chunks` in place and count their evaluations."""
        if not bool(rows.any()):
            return
        everyone = bool(rows.all())
        at = rows.to(chunks.device)
        own = ids if everyone else [env for env, on in zip(ids, rows.tolist(), strict=True) if on]
        seen = observation if everyone else observation[rows.to(observation.device)]
        x = begin(own, chunks if everyone else chunks[at])
        x = x.to(seen.device)
        clean = denoise(
            self.denoiser, self.levels, plan, x, seen, lambda like: self.noise(own, like)
        )
        chunks[at] = clean.to(chunks)
        count[rows] += len(plan)

    def _distance(self, chunks: Tensor, guess: Tensor, executed: int) -> Tensor:
        change = (chunks - guess)[:, :executed]
        return change.square().mean((1, 2)).sqrt().cpu()

    def _last_seen(self, observation: Tensor, ids: list[int], bad: Tensor) -> Tensor:
        if not bool(bad.any()):
            return observation
        seen = observation.clone()
        held = [env for env, is_bad in zip(ids, bad.tolist(), strict=True) if is_bad]
        seen[bad.to(seen.device)] = self.memory.observations(held)
        return seen


def _named(bad: Tensor, ids: list[int]) -> str:
    names = [str(env) for env, is_bad in zip(ids, bad.tolist(), strict=True) if is_bad]
    return f"NaN or infinity for environments {', '.join(names[:8])}"

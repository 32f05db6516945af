"""Several chunks for each environment, steered by rewards of trajectories under the one engine.

Every particle starts warm from its own last chunk, never from a neighbour's or from a mean: chunks
that pass an obstacle on different sides stay on their sides from one decision to the next. The
weights of a decision start equal; its target is the law of the chain from those starts, tilted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from fkdiff.loops import closed, facts, opened
from fkdiff.policy.denoising import estimate
from fkdiff.policy.levels import Plan
from fkdiff.policy.sampler import ChunkSampler
from fkdiff.policy.warm_start import ChunkMemory, shifted
from fkdiff.processes import randn_rows, sde_step
from fkdiff.processes.streams import stream
from fkdiff.result import Result
from fkdiff.run import SELECTS, Run
from fkdiff.smc import Resample
from fkdiff.terms.consistency import as_terms, check_needs
from fkdiff.terms.cost import Cost
from fkdiff.terms.step import Step
from fkdiff.terms.term import Term, law_of
from fkdiff.terms.trial import StandIn, made_up

__all__ = ["SteeredDecision", "SteeredPolicy"]

_PROVIDED = frozenset({"x0", "decode", "kernel"})


@dataclass(frozen=True)
class SteeredDecision:
    """What was decided for n environments; `steering` holds cold ones first, then warm ones.

    Arguments:
        actions: The selected chunk of each, shape (n, H, D).
        chunks: All particles in the policy's units, shape (n, K, H, D).
        cold: Whether each environment was decided from noise, shape (n,), bool.
        steering: The record of each run.
    """

    actions: Tensor
    chunks: Tensor
    cold: Tensor
    steering: tuple[Result, ...]


class SteeredPolicy:
    """A policy that considers K chunks and lets terms weigh them.

    Arguments:
        sampler: Denoiser, levels, warm start; its own memory isn't used.
        terms: Such as `Tilt(obstacle_distance(...), scale=50)`. Rewards read "actions" and may
            ask for `observations`.
        particles: K, at least 1.
        resample: When and how to resample within a decision, None never.
        select: "best" (the largest log-twist) or "sample" (a weighted draw).
        seed: Seed of all noise.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        sampler: ChunkSampler,
        *terms: Term,
        particles: int = 8,
        resample: Resample | None = Resample(),
        select: str = "best",
        seed: int = 0,
    ) -> None:
        if particles < 1:
            raise ValueError(f"particles must be at least 1, got {particles}")
        if select not in SELECTS[:2]:
            raise ValueError(f"select must be 'best' or 'sample', got {select!r}")
        check_needs(as_terms(terms), _PROVIDED, "a policy")
        self.sampler, self.terms, self.particles = sampler, terms, particles
        self.resample, self.select, self.seed = resample, select, seed
        self.memory = ChunkMemory()
        self._decided: dict[int, int] = {}
        self._generators: dict[int, list[torch.Generator]] = {}

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the particles of some environments, None for all."""
        self.memory.reset(env_ids)

    @torch.no_grad()
    def decide(
        self, observation: Tensor, env_ids: Sequence[int] | None = None, executed: int = 1
    ) -> SteeredDecision:
        """Decide for n environments; arguments are those of `ChunkSampler.decide`.

        Raises:
            ValueError: If an argument is out of range; nothing is changed then.
        """
        observation, ids, bad = self.sampler.check(observation, env_ids, executed)
        if any(bad):
            raise ValueError("observation must be finite to steer; particles can't be held")
        cold = torch.tensor([not k or self.sampler.is_cold for k in self.memory.known(ids)])
        shape = (len(ids), self.particles, *self.sampler.shape)
        chunks, chosen = observation.new_zeros(shape), torch.zeros(len(ids), dtype=torch.int64)
        records = []
        for rows, warm in ((cold, False), (~cold, True)):
            if not bool(rows.any()):
                continue
            own = list(compress(ids, rows.tolist()))
            result = self._run(own, observation[rows], executed, warm)
            chunks[rows], chosen[rows] = result.latents.to(chunks), result.selected[:, 0]
            records.append(result)
        self.memory.keep(ids, chunks, observation)
        self._decided |= {env: self._decided.get(env, 0) + 1 for env in ids}
        actions = self.sampler.executed_units(chunks[torch.arange(len(ids)), chosen])
        return SteeredDecision(actions, chunks, cold, tuple(records))

    def _run(self, ids: list[int], observation: Tensor, executed: int, warm: bool) -> Result:
        names, seeds = [f"environment {env}" for env in ids], [*map(self._decision_seed, ids)]
        run = opened(
            *(names, self.particles, self.terms, self.resample, (), self.select, tuple(seeds)),
            provided=_PROVIDED,
            where="a policy",
        )
        rows = observation.repeat_interleave(self.particles, 0)
        generators = [g for env in ids for g in self._streams(env)]
        plan = self.sampler.warm_plan if warm else self.sampler.cold_plan
        limit = self.sampler.micro_batch
        loop = _Loop(self.sampler, plan, run, rows, generators, limit, run.cost)
        with run.cost.time("total"):
            run.try_rewards(loop.stand_in, {"observations": [rows[0], rows[-1]]})
            if warm:
                x = self._begin(ids, plan, executed, generators)
            else:
                x = randn_rows(rows.new_zeros(len(rows), *self.sampler.shape), generators)
            loop(x)
        self.sampler.micro_batch = loop.micro_batch  # what fits, for the decisions to come
        targets = [law_of(term) for term in self.terms] or ["law of the chain"]
        settings = {"loop": "policy", "warm": warm, "evaluations": len(plan), "seeds": seeds}
        return closed(run, "; ".join(targets) + " from its start", settings)

    def _begin(
        self, ids: list[int], plan: Plan, executed: int, generators: list[torch.Generator]
    ) -> Tensor:
        """Each particle's own last chunk, moved on and noised, shape (N, H, D)."""
        warm, first = self.sampler.warm, plan.path[0]
        assert warm is not None
        last = self.memory.chunks(ids).flatten(0, 1)
        noise = randn_rows(last, generators)
        guess = shifted(last, executed, warm.fill, noise)
        return warm.start_from(guess, first.alpha, first.sigma, randn_rows(last, generators))

    def _streams(self, env: int) -> list[torch.Generator]:
        if env not in self._generators:
            keys = range(self.particles)
            self._generators[env] = [stream(self.seed, env, k, "policy") for k in keys]
        return self._generators[env]

    def _decision_seed(self, env: int) -> int:
        """Seed of an environment's next decision: the same in any company, another each time."""
        return stream(self.seed, env, self._decided.get(env, 0), "decision").initial_seed()


@dataclass
class _Loop:
    """Owns the chunks of a decision; hands each transition to the engine."""

    sampler: ChunkSampler
    plan: Plan
    run: Run
    observation: Tensor
    generators: list[torch.Generator]
    micro_batch: int | None
    cost: Cost

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Chunks as rewards read them: "actions" in executed units, "latents" in the policy's."""
        if inputs == "latents":
            return latents
        if inputs != "actions":
            raise ValueError(
                f"rewards must read actions or latents for a policy, got {inputs!r}; "
                "wrap the function: as_reward(fn, inputs='actions')"
            )
        return self.sampler.executed_units(latents)

    def stand_in(self, inputs: str) -> StandIn:
        """Two chunks of noise as rewards read them."""
        noise = made_up("latents", *self.sampler.shape, device=self.observation.device)
        return StandIn(self.decode(noise.to(self.observation.dtype), inputs))

    def __call__(self, x: Tensor) -> Tensor:
        """Run the plan from noisy chunks (N, H, D)."""
        parents, total = torch.arange(len(x)), len(self.plan)
        for index, path in enumerate(self.plan.path):
            # Copies must be able to separate, so a run that can resample takes noisy steps.
            eta = 1.0 if self.run.resamples else self.plan.eta
            t, seen = self.plan.timesteps[index], self.observation
            with self.cost.time("denoise"):
                x0 = estimate(self.sampler.denoiser, self.sampler.levels, x, t, path, seen, self)
            self.cost.denoiser_evaluations += len(x)
            kernel = sde_step(x, x0, path, eta)
            noise = kernel.std * randn_rows(x, self.generators) if kernel.std else 0.0
            step = Step(
                **{**facts(self.run, index, total), "context": {"observations": list(seen)}},
                x=x,
                x_next=kernel.mean + noise,
                path=path,
                parents=parents,
                source=self,
                estimate=lambda x0=x0: x0,
                kernel=kernel,
            )
            rows = self.run.transition(step)
            parents = torch.arange(len(x)) if rows is None else rows
            x = step.x_next[parents.to(x.device)]
        return x

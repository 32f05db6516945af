"""Warm starts for policies with LeRobot's method names, which isn't needed here.

Only `policy.diffusion.conditional_sample` is replaced, while one call lasts: LeRobot's observation
queues, image encoders, normalisation and action slicing stay its own.

    policy = DiffusionPolicy.from_pretrained(...)
    fast = WarmStartedPolicy(policy, WarmStart(start=20))
    action = fast.select_action(batch)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fkdiff.policy.calibration import Calibration
from fkdiff.policy.levels import Levels
from fkdiff.policy.sampler import ChunkSampler, Decision
from fkdiff.policy.warm_start import WarmStart

__all__ = ["WarmStartedPolicy"]

NEEDED = (
    "diffusion.unet",
    "diffusion.noise_scheduler",
    "diffusion.conditional_sample",
    "config.horizon",
    "config.n_action_steps",
)


class WarmStartedPolicy:
    """A policy whose chunks start from the ones before.

    Arguments:
        policy: As LeRobot's DiffusionPolicy it has `config.horizon`, `config.n_action_steps`,
            `diffusion.unet(x, t, global_cond=)`, `diffusion.noise_scheduler` and
            `diffusion.conditional_sample`. Cold decisions take its `num_inference_steps`, of
            `diffusion` or `config`, unless `warm` says how many.
        warm: How decisions start.
        calibration: For `WarmStart(start="auto")`, on the encoded observations.
        seed: Seed of all noise.

    Raises:
        TypeError: If the policy lacks one of these.
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        policy: Any,
        warm: WarmStart,
        calibration: Calibration | None = None,
        seed: int = 0,
    ) -> None:
        _check(policy)
        self.policy, self.config = policy, policy.config
        self.sampler: ChunkSampler | None = None
        self.last: Decision | None = None
        self._settings = warm, calibration, seed
        self._executed = 0

    def __getattr__(self, name: str) -> Any:
        """Whatever else the policy can do."""
        return getattr(self.policy, name)

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the guesses of environments whose episode ended, None for all.

        For all, the policy's own queues are cleared as well; they aren't kept by environment.
        """
        if env_ids is None:
            self.policy.reset()
            self._executed = 0
        if self.sampler is not None:
            self.sampler.reset(env_ids)

    def select_action(self, batch: Any, **keywords: Any) -> Tensor:
        """The next action of each environment, by the policy's own method."""
        with self._warm():
            action = self.policy.select_action(batch, **keywords)
        self._executed += 1
        return action

    def predict_action_chunk(
        self, batch: Any, executed: int | None = None, **keywords: Any
    ) -> Tensor:
        """A chunk for each environment, by the policy's own method.

        Arguments:
            batch: As the policy takes it.
            executed: Actions executed since the last chunk, None for those that `select_action`
                gave out, or all of the policy's `n_action_steps` where it gave none.
            keywords: Handed on.
        """
        if executed is not None:
            self._executed = executed
        elif self._executed == 0 and self.sampler is not None:
            self._executed = self.config.n_action_steps
        with self._warm():
            return self.policy.predict_action_chunk(batch, **keywords)

    @contextmanager
    def _warm(self) -> Iterator[None]:
        model = self.policy.diffusion
        own = "conditional_sample" in vars(model)
        before = model.conditional_sample
        model.conditional_sample = self._conditional_sample
        try:
            yield
        finally:
            if own:
                model.conditional_sample = before
            else:
                del model.conditional_sample

    def _conditional_sample(
        self,
        batch_size: int,
        global_cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        if generator is not None or noise is not None:
            raise ValueError(
                "noise and generator must be None under warm starts, which draw from a stream for "
                "each environment; set WarmStartedPolicy(seed=)"
            )
        if global_cond is None:
            raise ValueError("global_cond must be given: warm starts need an observation")
        if self.sampler is None:
            self.sampler = self._build(global_cond)
        self.last = self.sampler.decide(global_cond, range(batch_size), self._executed)
        self._executed = 0
        return self.last.actions.to(global_cond)

    def _build(self, global_cond: Tensor) -> ChunkSampler:
        warm, calibration, seed = self._settings
        model, config = self.policy.diffusion, self.config
        feature = getattr(config, "action_feature", None)
        steps = getattr(model, "num_inference_steps", None)
        steps = getattr(config, "num_inference_steps", None) if steps is None else steps
        return ChunkSampler(
            lambda x, t, cond: model.unet(x, t, global_cond=cond),
            Levels.of(model.noise_scheduler),
            (config.horizon, config.action_size if feature is None else feature.shape[0]),
            warm,
            calibration,
            global_cond.shape[1],
            cold_evaluations=None if steps is None else int(steps),
            seed=seed,
        )


def _check(policy: Any) -> None:
    for path in NEEDED:
        at = policy
        for name in path.split("."):
            at = getattr(at, name, None)
        if at is None:
            raise TypeError(
                f"policy must have {path}, as LeRobot's DiffusionPolicy, {type(policy).__name__} "
                "doesn't; use ChunkSampler with the denoiser and scheduler themselves"
            )
    if policy.config.n_action_steps > policy.config.horizon:
        raise ValueError(
            f"n_action_steps must be at most the horizon {policy.config.horizon}, "
            f"got {policy.config.n_action_steps}"
        )

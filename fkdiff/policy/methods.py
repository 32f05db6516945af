"""Ways to take decisions, by name: usual solvers, warm starts, and controls that should fail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol

import torch
from torch import Tensor

from fkdiff.policy.calibration import Calibration
from fkdiff.policy.denoising import Denoiser
from fkdiff.policy.levels import Levels
from fkdiff.policy.sampler import ChunkSampler, Decision
from fkdiff.policy.warm_start import WarmStart, shifted

__all__ = ["METHODS", "Controller", "make_method"]

PUBLISHED = (3, 1, 0)
"""The list of levels published for Lift and BlockPush."""

METHODS = {
    "ddpm100": "DDPM over every level, from noise",
    "ddim10": "DDIM in 10 evaluations, from noise",
    "ddim4": "DDIM in 4 evaluations, from noise",
    "ddim2": "DDIM in 2 evaluations, from noise",
    "ddim1": "control: one evaluation from noise, what a warm decision costs without a guess",
    "rti_paper": f"clean guess, levels {list(PUBLISHED)}, each step one level down, as published",
    "rti_auto": "guess noised to the automatic K', one evaluation, cold after a jump",
    "hold": "control: the old chunk moved on, nothing denoised",
    "wrong_chunk": "the guess of another environment, never cold: how much the guess matters",
}

# `wrong_chunk` isn't bound to fail: C(K') doesn't ask whose guess it is, and at an automatic K'
# there is as much noise as signal. It says how much the guess matters; `ddim1` has none.


class Controller(Protocol):
    """What takes decisions for several environments."""

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget some environments, None for all."""
        ...

    def decide(
        self, observation: Tensor, env_ids: Sequence[int] | None = None, executed: int = 1
    ) -> Decision:
        """Chunks of actions for n environments."""
        ...


def make_method(
    name: str,
    denoiser: Denoiser,
    levels: Levels,
    shape: tuple[int, int],
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Controller:
    """Makes the controller of a method, one of `METHODS`, for chunks of shape (H, D).

    The solver's noise is the method's own; "rti_auto" and "wrong_chunk" need a calibration.

    Raises:
        ValueError: If there is no such method, or it lacks its calibration.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    ddpm, ddim = replace(levels, eta=1.0), replace(levels, eta=0.0)

    def sampler(which: Levels, warm: WarmStart | None, cold: int | None = None) -> ChunkSampler:
        return ChunkSampler(
            denoiser, which, shape, warm, calibration, cold_evaluations=cold, seed=seed
        )

    if name == "ddpm100":
        return sampler(ddpm, None)
    if name == "rti_paper":
        return sampler(ddpm, WarmStart(start=1, noise="none", skipping=PUBLISHED))
    if name == "hold":
        return _Hold(sampler(ddim, None))
    if name.startswith("ddim"):
        return sampler(ddim, None, int(name.removeprefix("ddim")))
    if calibration is None:
        raise ValueError(f"{name} must have a calibration; make one: `fkdiff policy calibrate`")
    if name == "wrong_chunk":
        return _WrongChunk(sampler(ddim, WarmStart()))
    return sampler(ddim, WarmStart(jump=calibration.jump, max_error=calibration.max_error))


@dataclass
class _Hold:
    """Decides once an episode and then only moves the chunk on."""

    sampler: ChunkSampler

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        self.sampler.reset(env_ids)

    def decide(
        self, observation: Tensor, env_ids: Sequence[int] | None = None, executed: int = 1
    ) -> Decision:
        ids = list(range(len(observation))) if env_ids is None else list(env_ids)
        known = torch.tensor(self.sampler.memory.known(ids))
        new = (~known).nonzero()[:, 0].tolist()
        if new:
            self.sampler.decide(observation[new], [ids[row] for row in new], executed)
        chunks = self.sampler.memory.chunks(ids)
        moved = torch.where(known[:, None, None], shifted(chunks, executed, "repeat"), chunks)
        self.sampler.memory.keep(ids, moved, observation)
        count = (~known) * len(self.sampler.cold_plan)
        return Decision(moved, moved, ~known, known, count)


class _WrongChunk(_Hold):
    """Starts each environment from its neighbour's chunk."""

    def decide(
        self, observation: Tensor, env_ids: Sequence[int] | None = None, executed: int = 1
    ) -> Decision:
        ids = list(range(len(observation))) if env_ids is None else list(env_ids)
        memory = self.sampler.memory
        kept = list(compress(ids, memory.known(ids)))
        if kept:
            memory.keep(kept, memory.chunks(kept).roll(1, 0), memory.observations(kept))
        return self.sampler.decide(observation, ids, executed)

"""Where a scheduler's calls stand in its grid of timesteps, and the noise levels there."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.taps.coefficients import coefficients, time_of

__all__ = ["Clock", "Pair", "steps_of", "transitions_ahead", "transitions_of"]

Pair: TypeAlias = tuple[float, float]
"""(alpha, sigma)."""


@dataclass
class Clock:
    """Counts the calls of one scheduler in a run.

    Arguments:
        begin: Place of the first call in the grid of timesteps.
        position: Calls so far.
        known: Timestep of the grid, step index and pair where the last call ended.
    """

    begin: int = 0
    position: int = 0
    known: tuple[Tensor, int | None, Pair | None] | None = None

    def start(self, scheduler: Any, timestep: Any) -> None:
        """Find the place of the first call; later ones are counted."""
        if self.position == 0:
            self.begin = _begin(scheduler, timestep)

    def tick(self) -> int:
        """Count a call; returns its position."""
        self.position += 1
        return self.position - 1

    def pair(self, scheduler: Any, timestep: Any) -> Pair | None:
        """(alpha, sigma) where a call begins: where the last one ended, if it goes on there."""
        if self.known is not None and isinstance(timestep, Tensor) and timestep.numel() == 1:
            time, index, pair = self.known
            same = timestep.data_ptr() == time.data_ptr()  # pipelines walk along the grid
            if same and index == getattr(scheduler, "step_index", None):
                return pair
        return coefficients(scheduler, timestep)

    def next_pair(self, scheduler: Any) -> Pair | None:
        """(alpha, sigma) where the call that was just counted ended, None at the run's end."""
        place, grid = self.begin + self.position, scheduler.timesteps
        if place < len(grid):
            time, index = grid[place], getattr(scheduler, "step_index", None)
            self.known = time, index, coefficients(scheduler, time)
            return self.known[2]
        final = getattr(scheduler, "final_alpha_cumprod", None)
        if final is not None:
            return float(final) ** 0.5, (1 - float(final)) ** 0.5
        return None


# Their grid's last timestep is the end of the run itself.
_CLOSED = frozenset({"SCMScheduler", "DDPMWuerstchenScheduler"})


def steps_of(scheduler: Any) -> int:
    """Timesteps that a whole run steps from."""
    return len(scheduler.timesteps) - (type(scheduler).__name__ in _CLOSED)


def _begin(scheduler: Any, timestep: Any) -> int:
    """Place in the grid where a run begins; image-to-image runs begin in the middle.

    Schedulers that count their steps know their `begin_index`. Grids of the others may hold a
    timestep twice (PNDM), and pipelines walk along the grid itself, so that a timestep's place in
    memory is its place in the grid.
    """
    if hasattr(scheduler, "_init_step_index"):
        if getattr(scheduler, "step_index", None) is None:
            scheduler._init_step_index(timestep)
        return int(scheduler.step_index)
    return _place_of(timestep, scheduler.timesteps)


def _place_of(timestep: Any, grid: Tensor) -> int:
    if isinstance(timestep, Tensor) and _same_memory(timestep, grid):
        return int(timestep.storage_offset() - grid.storage_offset()) // max(1, grid.stride(0))
    found = (grid == time_of(timestep).to(grid)).nonzero()
    return int(found[0]) if len(found) else 0


def transitions_ahead(scheduler: Any, timestep: Any) -> int:
    """Counts the transitions of a run whose scheduler hasn't stepped yet.

    Arguments:
        scheduler: The scheduler, its grid set.
        timestep: What the pipeline's network is first called with; some are given it scaled, but
            then their schedulers know where they begin.
    """
    begin = getattr(scheduler, "begin_index", None)
    if begin is None:
        times = torch.as_tensor(timestep)
        begin = _place_of(times[(0,) * times.ndim], scheduler.timesteps)
    return transitions_of(scheduler, steps_of(scheduler) - begin)


def transitions_of(scheduler: Any, calls: int) -> int:
    """A pair of calls makes one transition in solvers of order two."""
    return (calls + 1) // 2 if getattr(scheduler, "order", 1) == 2 else calls


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()

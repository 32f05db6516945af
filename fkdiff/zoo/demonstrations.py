"""Scripted demonstrations of the Meta-World tasks, disturbed on purpose and labelled cleanly.

The expert's clean action is recorded at every state while what is executed is disturbed: noise on
the hand's motion, a drift of some steps, a pushed object. So the data show how to recover. Windows
that a drift or a push begins inside are left out: nothing observed announces those.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from fkdiff.policy.tasks import TASKS, TaskEpisode

__all__ = ["HORIZON", "TRAIN_SEEDS", "Demonstrations", "check_disjoint", "gather", "layouts"]

HORIZON = 16
TRAIN_SEEDS = 1_000_000
"""Seeds of demonstrations start here; those below are for evaluation."""

NOISES = (0.0, 0.1, 0.3, 0.5)
LIMIT = 220
MARGIN = 1e-4


@dataclass(frozen=True)
class Demonstrations:
    """Windows of demonstrations: `observations` (N, 43), `chunks` (N, 16, 4), `layouts` (E, 6)."""

    observations: Tensor
    chunks: Tensor
    layouts: Tensor

    def save(self, file: Path) -> None:
        """Write them as safetensors."""
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in vars(self).items()}, file)

    @classmethod
    def load(cls, file: Path) -> "Demonstrations":
        """Read what `save` wrote."""
        with safe_open(file, "pt") as stored:
            return cls(**{name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118


def gather(episodes: int, seed: int = 0) -> Demonstrations:
    """Record that many successful demonstrations of each task.

    Arguments:
        episodes: Demonstrations a task.
        seed: Seed of the disturbances; layouts come from `TRAIN_SEEDS` on.
    """
    observations, chunks, starts = [], [], []
    for index, task in enumerate(TASKS):
        env, kept, attempt = TaskEpisode(task), 0, 0
        with tqdm(total=episodes, desc=f"demonstrations of {task}", mininterval=5) as bar:
            while kept < episodes:
                number = TRAIN_SEEDS + attempt
                attempt += 1
                rng = np.random.default_rng([seed, index, number])
                recorded = _episode(env, number, rng)
                if recorded is None:
                    continue
                kept += 1
                bar.update()
                starts.append(recorded[0])
                observations.append(recorded[1])
                chunks.append(recorded[2])
    stacked = (np.concatenate(observations), np.concatenate(chunks), np.stack(starts))
    return Demonstrations(*(torch.from_numpy(part).float() for part in stacked))


def _episode(
    env: TaskEpisode, number: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Layout, observations (n, 43) and chunks (n, 16, 4) of an episode; None if it failed."""
    observed, actions, onsets = [], [], []
    seen, left, sigma = env.reset(number), None, rng.choice(NOISES)
    start = env.layout
    plan = {"drift": rng.integers(5, 80), "push": rng.integers(10, 60)}
    plan = {kind: step for kind, step in plan.items() if rng.random() < 0.4}
    drift = rng.uniform(-1, 1, 3)
    for step in range(LIMIT):
        if step == plan.get("push"):
            env.push(rng)
        if step in plan.values():
            onsets.append(step + 1 if step == plan.get("push") else step)
        action = env.expert_action()
        observed.append(seen)
        actions.append(action)
        done = action + np.append(sigma * rng.standard_normal(3), 0.0)
        if 0 <= step - plan.get("drift", LIMIT) < 8:
            done[:3] = drift
        seen, success = env.step(done)
        left = (8 if success else None) if left is None else left - 1
        if left == 0:
            return start, *_windows(np.array(observed), np.array(actions), onsets)
    return None


def _windows(
    observed: np.ndarray, actions: np.ndarray, onsets: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of an episode, the last action repeated past its end."""
    steps = np.arange(len(actions))
    hit = [(steps < onset) & (onset < steps + HORIZON) for onset in onsets]
    kept = steps[~np.any(hit, axis=0)] if hit else steps
    ahead = np.minimum(kept[:, None] + np.arange(HORIZON), len(actions) - 1)
    return observed[kept], actions[ahead]


def layouts(task: str, seeds: range) -> Tensor:
    """Object and goal at the start of each seed's episode, shape (len(seeds), 6)."""
    env = TaskEpisode(task)
    starts = []
    for seed in seeds:
        env.reset(seed)
        starts.append(env.layout)
    return torch.from_numpy(np.stack(starts)).float()


def check_disjoint(trained: Tensor, held_out: Tensor) -> float:
    """Smallest distance in metres between a trained and a held-out start.

    Raises:
        ValueError: If a held-out start was among the demonstrations.

    Example:
        >>> check_disjoint(torch.zeros(2, 6), torch.ones(1, 6))
        2.449...
    """
    least = float(torch.cdist(trained.double(), held_out.double()).min())
    if least < MARGIN:
        raise ValueError(
            f"held-out episodes must start where no demonstration did, got one {least:.1g} m "
            f"away; take evaluation seeds below {TRAIN_SEEDS}"
        )
    return least

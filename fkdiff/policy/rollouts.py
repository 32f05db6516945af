"""Closed-loop episodes, several environments at a time, with or without a pushed object."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fkdiff.policy.calibration import Recording
from fkdiff.policy.methods import Controller
from fkdiff.policy.tasks import PUSH_STEPS, TaskEpisode

__all__ = ["LIMIT", "Episode", "Rollouts"]

LIMIT = 200
"""Steps after which an episode has failed."""


@dataclass
class Episode:
    """How an episode went.

    Arguments:
        seed: Decides the layout, and when and where the object is pushed.
        success: Whether the task was done in time.
        steps: Environment steps taken.
        decisions: Decisions taken.
        evaluations: Denoiser calls spent on them.
        cold: Decisions that were taken from noise, the first among them.
        recording: Observations and chunks of its decisions, where they are kept.
    """

    seed: int
    success: bool = False
    steps: int = 0
    decisions: int = 0
    evaluations: int = 0
    cold: int = 0
    recording: Recording | None = None


@dataclass
class _Running:
    env: TaskEpisode
    episode: Episode
    observation: np.ndarray
    push_at: int
    rng: np.random.Generator
    seen: list[Tensor] = field(default_factory=list)
    chunks: list[Tensor] = field(default_factory=list)

    def act(self, actions: np.ndarray) -> bool:
        """Execute some actions; whether the episode is over."""
        for action in actions:
            if self.episode.steps == self.push_at:
                self.env.push(self.rng)
            self.observation, self.episode.success = self.env.step(action)
            self.episode.steps += 1
            if self.episode.success or self.episode.steps >= LIMIT:
                return True
        return False


class Rollouts:
    """Environments of one task, kept between runs since making them is slow.

    `batch` of them run side by side; `render` says whether they can be filmed.
    """

    def __init__(self, task: str, batch: int = 25, render: bool = False) -> None:
        self.task, self.batch, self.render = task, batch, render
        self._envs: list[TaskEpisode] = []

    def run(
        self,
        controller: Controller,
        seeds: Sequence[int],
        replan: int = 1,
        push: bool = False,
        record: bool = False,
        watch: Callable[[int, TaskEpisode], None] | None = None,
    ) -> Iterator[Episode]:
        """Episodes as they end.

        Arguments:
            controller: Takes the decisions; reset where an episode begins.
            seeds: One episode each; the same seeds give every method the same episodes.
            replan: Actions executed between decisions.
            push: Whether the object is moved, once, at a step of the seed's choice.
            record: Keep observations and chunks of all decisions.
            watch: Called with the seed and its environment after each step taken together.
        """
        if replan < 1:
            raise ValueError(f"replan must be at least 1, got {replan}")
        while len(self._envs) < min(self.batch, len(seeds)):
            self._envs.append(TaskEpisode(self.task, self.render))
        for start in range(0, len(seeds), self.batch):
            block = seeds[start : start + self.batch]
            running = dict(enumerate(map(self._begin, self._envs, block, [push] * len(block))))
            controller.reset()
            while running:
                self._decide(controller, running, replan, record)
                ended = yield from self._step(running, replan, watch)
                controller.reset(ended)

    def _begin(self, env: TaskEpisode, seed: int, push: bool) -> _Running:
        rng = np.random.default_rng([seed, 7])
        push_at = int(rng.integers(*PUSH_STEPS))
        return _Running(env, Episode(seed), env.reset(seed), push_at if push else -1, rng)

    def _decide(
        self, controller: Controller, running: dict[int, _Running], replan: int, record: bool
    ) -> None:
        seen = torch.from_numpy(np.stack([r.observation for r in running.values()])).float()
        decision = controller.decide(seen, list(running), executed=replan)
        for row, run in enumerate(running.values()):
            episode = run.episode
            episode.decisions += 1
            episode.evaluations += int(decision.evaluations[row])
            episode.cold += int(decision.cold[row])
            run.chunks.append(decision.actions[row])
            if record:
                run.seen.append(seen[row])
            else:
                del run.chunks[:-1]

    def _step(
        self,
        running: dict[int, _Running],
        replan: int,
        watch: Callable[[int, TaskEpisode], None] | None,
    ) -> Generator[Episode, None, list[int]]:
        """Execute, yield the episodes that end, and return the environments they ended in."""
        ended = []
        for row, run in list(running.items()):
            over = run.act(run.chunks[-1][:replan].numpy())
            if watch is not None:
                watch(run.episode.seed, run.env)
            if over:
                ended.append(row)
                if run.seen:
                    kept = Recording(torch.stack(run.seen), torch.stack(run.chunks))
                    run.episode.recording = kept
                del running[row]
                yield run.episode
        return ended

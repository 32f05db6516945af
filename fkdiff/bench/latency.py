"""Times of single decisions, and the one thread that they and other small networks run on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fkdiff.policy.methods import Controller

__all__ = ["decision_times", "one_thread"]

WARM_UP = 10


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread within the block: small networks would wait for others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def decision_times(
    controllers: Mapping[str, Controller], episodes: Sequence[Tensor], decisions: int = 200
) -> dict[str, list[float]]:
    """Milliseconds of each decision for one environment, by method: processor time of one thread.

    Each observation goes to every method in turn, so that they see the same state of the machine;
    other programs don't count. An episode starts with a reset: its first decision is cold.

    Arguments:
        controllers: Methods by name.
        episodes: Consecutive observations (S, O) of each episode.
        decisions: How many are timed, after a few that aren't.
    """
    times: dict[str, list[float]] = {name: [] for name in controllers}
    with one_thread(), torch.inference_mode():
        for _ in range(WARM_UP):
            for controller in controllers.values():
                controller.decide(episodes[0][:1])
        while len(next(iter(times.values()))) < decisions:
            for observations in episodes:
                for controller in controllers.values():
                    controller.reset()
                for observation in observations.split(1):
                    for name, controller in controllers.items():
                        start = time.thread_time()
                        controller.decide(observation)
                        times[name].append(1000 * (time.thread_time() - start))
    return {name: values[:decisions] for name, values in times.items()}

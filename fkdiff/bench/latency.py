"""How long one decision takes: methods take turns on the same observations, on one thread."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fkdiff.bench.one_thread import one_thread
from fkdiff.policy.methods import Controller

__all__ = ["decision_times"]

WARM_UP = 10


def decision_times(
    controllers: Mapping[str, Controller], episodes: Sequence[Tensor], decisions: int = 200
) -> dict[str, list[float]]:
    """Milliseconds of each decision for one environment, by method: processor time of one thread.

    It is the time on the wall of an idle machine, and other programs don't count on a busy one.
    Each observation goes to every method in turn, so that they see the same state of the machine.
    An episode starts with a reset: its first decision is cold and counts.

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
                for row in range(len(observations)):
                    for name, controller in controllers.items():
                        start = time.thread_time()
                        controller.decide(observations[row : row + 1])
                        times[name].append(1000 * (time.thread_time() - start))
    return {name: values[:decisions] for name, values in times.items()}

"""Pipelines that tests of the taps share, their stock output, and a term that watches."""

import functools

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.modular_pipelines.modular_pipeline import PipelineState

from fkdiff import as_reward
from fkdiff.processes.streams import slot_generators
from tests.tiny import Tiny, build

K = 5


SEED = 7


CALL = {"num_inference_steps": 3, "output_type": "pt"}


FIRST_ORDER = (DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler)


@functools.cache
def shared(name: str) -> Tiny:
    """One pipeline a set-up for all its tests, so that each also shows that the others undid."""
    return build(name)


@functools.cache
def stock(name: str) -> torch.Tensor:
    """What the untouched pipeline draws with the generators that a steered run has."""
    return plain_call(shared(name))


def plain_call(tiny: Tiny, **more) -> torch.Tensor:
    generators = slot_generators(SEED, 1, K)
    return as_tensor(tiny.pipe(**{**CALL, **tiny.rows(K), **more}, generator=generators))


def as_tensor(output) -> torch.Tensor:
    return torch.as_tensor(np.asarray(samples(output)))


def samples(output):
    """A modular pipeline returns its whole state."""
    return output.get("images") if isinstance(output, PipelineState) else output[0]


def brightness(tiny: Tiny):
    return as_reward(lambda x: x.flatten(1).mean(1), name="brightness", inputs=tiny.inputs)


def assert_near(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    scale = float(exact.abs().max())
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance * scale)


def network(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


class Watching:
    """A term without weight that does something at every transition."""

    needs, target, steers = frozenset(), "the law itself", False

    def __init__(self, action):
        self.action = action

    def start(self, rows):
        return {}

    def log_twist(self, step, state):
        self.action(step)
        return torch.zeros_like(step.log_w), state

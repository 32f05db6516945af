"""How many denoiser calls a cold decision takes: what is stated, else the policy's own number."""

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from fkdiff.policy import WarmStart, WarmStartedPolicy
from tests.policy import toy
from tests.policy.test_pipeline import Robot, seen
from tests.policy.test_warm_start import obs, sampler


def spent(policy):
    """Denoiser calls for each environment of the last decision."""
    assert policy.last is not None
    return policy.last.evaluations.tolist()


@pytest.mark.parametrize("named", ["diffusion", "config"])
@pytest.mark.parametrize(
    ("scheduler", "steps"), [(DDPMScheduler, 20), (DDIMScheduler, 25), (DDIMScheduler, None)]
)
def test_lerobot_keeps_its_number_of_steps(named, scheduler, steps):
    robot = Robot()
    robot.diffusion.noise_scheduler = scheduler(**toy.COSINE)
    getattr(robot, named).num_inference_steps = steps
    fast = WarmStartedPolicy(robot, WarmStart(start=20))
    fast.predict_action_chunk(seen(0.5))
    assert robot.diffusion.calls == (10 if steps is None else steps)
    fast.predict_action_chunk(seen(0.5))
    assert spent(fast) == [1]
    stated = WarmStartedPolicy(robot, WarmStart(start=20, cold_evaluations=4))
    stated.predict_action_chunk(seen(0.5))
    assert spent(stated) == [4]


def test_no_evaluations_are_too_few():
    with pytest.raises(ValueError, match="cold_evaluations must be at least 1 or None, got 0"):
        sampler(cold_evaluations=0)
    with pytest.raises(ValueError, match="observation must hold 0 numbers"):
        sampler(observation_size=0).decide(obs(0.5))

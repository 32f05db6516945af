"""Steering works: one weighted draw of FK with 8 particles beats the plain model on its reward.

20 shipped prompts, 2 seeds, paired. With the rewards shuffled over the particles it doesn't.
"""

import pytest
import torch
from diffusers import DiffusionPipeline

from fkdiff import Tilt, as_reward, steer, zoo
from fkdiff.rewards import OpenCLIP

SEEDS, PARTICLES = (0, 1), 8
# Few steps and no guidance pair: a fifth of the time, and the same comparison. With less than ten
# steps, estimates say little before the end.
CALL = {"num_inference_steps": 10, "guidance_scale": 1.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def setting():
    pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    prompts = list(zoo.prompts("demo"))
    assert len(prompts) == 20
    return pipe, prompts, OpenCLIP("emoji-clip")


@pytest.fixture(scope="module")
def plain(setting):
    return torch.cat([drawn(setting, seed) for seed in SEEDS])


def drawn(setting, seed, *terms):
    """Reward of the one picture drawn for each prompt, shape (20,)."""
    pipe, prompts, clip = setting
    particles = PARTICLES if terms else 1
    # Plain pictures take the same stochastic steps: the gain of a control is then 0 on average.
    settings = {"particles": particles, "monitor": [clip], "select": "sample", "seed": seed}
    steered = steer(pipe, *terms, stochastic=True, **settings)
    result = steered(prompts, **CALL).steering
    return result.rewards[clip.name].gather(1, result.selected).squeeze(1)


def shuffled(clip):
    """The same rewards, dealt out at random among the particles of each prompt."""
    deal = torch.Generator().manual_seed(0)

    def score(pixels, prompts):
        values = clip(pixels, prompts=prompts)
        for prompt in dict.fromkeys(prompts):  # a set has another order in each process
            mine = torch.tensor([i for i, p in enumerate(prompts) if p == prompt])
            values[mine] = values[mine[torch.randperm(len(mine), generator=deal)]]
        return values

    return as_reward(score, name="shuffled", mean=clip.mean, sd=clip.sd)


def paired_z(setting, plain, reward):
    steered = torch.cat([drawn(setting, seed, Tilt(reward, scale=4.0)) for seed in SEEDS])
    gain = steered - plain
    return float(gain.mean() / (gain.std() / len(gain) ** 0.5))


def test_steering_beats_the_plain_model(setting, plain):
    assert paired_z(setting, plain, setting[2]) > 3


def test_shuffled_rewards_do_not(setting, plain):
    assert paired_z(setting, plain, shuffled(setting[2])) < 3

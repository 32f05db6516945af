"""The pipeline saves and loads, and a policy with LeRobot's method names starts warm."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from fkdiff.policy import (
    ChunkDenoiser,
    DiscreteActions,
    WarmStart,
    WarmStartedPolicy,
    WarmStartPolicyPipeline,
)
from tests.policy import toy
from tests.policy.test_warm_start import calibrated


def small() -> ChunkDenoiser:
    torch.manual_seed(0)
    return ChunkDenoiser(horizon=4, action_size=2, observation_size=2, width=16, depth=1)


def test_saves_and_loads(tmp_path):
    warm = WarmStart(discrete=DiscreteActions((1,), 0.0, 1.0), jump=4.0, noise=0.5)
    made = WarmStartPolicyPipeline(
        small(), DDIMScheduler(**toy.COSINE), warm, calibrated(), seed=3
    )
    made.save_pretrained(tmp_path)
    loaded = WarmStartPolicyPipeline.from_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin")) and list(tmp_path.rglob("*.safetensors"))
    assert loaded.sampler.warm == warm and loaded.calibration == calibrated()
    assert loaded.sampler.start == made.sampler.start < 100
    for seen in (torch.zeros(3, 2), torch.full((3, 2), 0.05)):
        assert torch.equal(made(seen).actions, loaded(seen).actions)
    cold = WarmStartPolicyPipeline.from_pretrained(tmp_path, warm_start=WarmStart(start=100))
    assert cold.sampler.is_cold
    (plain,) = made(torch.zeros(3, 2), return_dict=False)
    assert plain.shape == (3, 4, 2)


def test_scheduler_and_network_stay_as_they_were():
    scheduler, net = DDPMScheduler(**toy.COSINE), small()
    before, weights = dict(scheduler.config), {k: v.clone() for k, v in net.state_dict().items()}
    policy = WarmStartPolicyPipeline(net, scheduler, WarmStart(start=5))
    policy(torch.zeros(1, 2))
    policy(torch.zeros(1, 2))
    assert dict(scheduler.config) == before and scheduler.num_inference_steps is None
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def test_observation_of_another_size_is_refused_at_once():
    policy = WarmStartPolicyPipeline(small(), DDIMScheduler(**toy.COSINE), WarmStart(start=5))
    with pytest.raises(ValueError, match="observation must hold 2 numbers"):
        policy(torch.zeros(1, 5))


class Robot:
    """LeRobot's DiffusionPolicy, as far as its method names go."""

    def __init__(self, n_action_steps: int = 2) -> None:
        self.config = SimpleNamespace(
            horizon=6, n_obs_steps=2, n_action_steps=n_action_steps, action_size=1
        )
        self.diffusion = Model(self.config)
        self.reset()

    def reset(self) -> None:
        self._queues = {
            "state": deque(maxlen=self.config.n_obs_steps),
            "action": deque(maxlen=self.config.n_action_steps),
        }

    def predict_action_chunk(self, batch, noise=None):
        stacked = torch.stack(list(self._queues["state"]) or 2 * [batch["state"]], 1)
        return self.diffusion.generate_actions({"state": stacked}, noise)

    def select_action(self, batch, noise=None):
        queue = self._queues["state"]
        while len(queue) < queue.maxlen - 1:
            queue.append(batch["state"])
        queue.append(batch["state"])
        if not self._queues["action"]:
            chunk = self.predict_action_chunk(batch, noise)
            self._queues["action"].extend(chunk.transpose(0, 1))
        return self._queues["action"].popleft()

    def name(self) -> str:
        return "robot"


class Model:
    def __init__(self, config) -> None:
        self.config = config
        self.noise_scheduler = DDPMScheduler(**toy.COSINE)
        net = toy.Gaussian(toy.ddpm(), 0.1)
        self.calls = 0

        def unet(x, t, global_cond=None):
            self.calls += 1
            return net(x, t, global_cond)

        self.unet = unet

    def conditional_sample(self, batch_size, global_cond=None, generator=None, noise=None):
        x = torch.randn(batch_size, self.config.horizon, 1, generator=generator)
        self.noise_scheduler.set_timesteps(100)
        for t in self.noise_scheduler.timesteps:
            output = self.unet(x, t.expand(batch_size), global_cond=global_cond)
            x = self.noise_scheduler.step(output, t, x, generator=generator).prev_sample
        return x

    def generate_actions(self, batch, noise=None):
        cond = batch["state"].flatten(1)
        actions = self.conditional_sample(len(cond), global_cond=cond, noise=noise)
        start = self.config.n_obs_steps - 1
        return actions[:, start : start + self.config.n_action_steps]


def seen(*values: float) -> dict:
    return {"state": torch.tensor(values)[:, None]}


def test_lerobot_names_start_warm():
    robot = Robot()
    fast = WarmStartedPolicy(robot, WarmStart(start=20))
    costs = []
    for _ in range(6):
        before = robot.diffusion.calls
        action = fast.select_action(seen(0.5, -0.5))
        costs.append(robot.diffusion.calls - before)
        assert action.shape == (2, 1)
        assert (action[:, 0] - torch.tensor([0.5, -0.5])).abs().max() < 0.5
    assert costs == [100, 0, 1, 0, 1, 0]
    assert fast.name() == "robot" and "conditional_sample" not in vars(robot.diffusion)
    fast.reset()
    fast.select_action(seen(0.5, -0.5))
    assert fast.last.cold.all()


def test_lerobot_reset_of_one_environment():
    fast = WarmStartedPolicy(Robot(), WarmStart(start=20))
    fast.predict_action_chunk(seen(0.5, -0.5))
    fast.reset([1])
    fast.predict_action_chunk(seen(0.5, -0.5), executed=2)
    assert fast.last.cold.tolist() == [False, True]


def test_lerobot_is_put_back_after_an_error():
    robot = Robot()
    fast = WarmStartedPolicy(robot, WarmStart(start=20))
    with pytest.raises(ValueError, match="finite"):
        fast.select_action(seen(float("nan"), 0.0))
    assert "conditional_sample" not in vars(robot.diffusion)


def test_other_policies_are_refused():
    with pytest.raises(TypeError, match=r"diffusion\.unet"):
        WarmStartedPolicy(SimpleNamespace(config=None), WarmStart(start=2))
    with pytest.raises(ValueError, match="n_action_steps must be at most"):
        WarmStartedPolicy(Robot(n_action_steps=9), WarmStart(start=2))

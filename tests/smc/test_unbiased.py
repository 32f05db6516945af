"""exp(log Z) is unbiased for every number of particles, scheme and trigger.

Prompts serve as independent repetitions. Besides Z, each final state's share of it is tested:
that also fails where weights go with the wrong particles.
"""

import pytest
import torch

from fkdiff.smc import SCHEMES, Cloud, Resample, bisect_scale
from tests.exact import assert_mean, chain_measure

STEPS = 6
INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
# States persist, so that a weight lost early is missed late.
KERNEL = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]]).double()
REWARD = torch.tensor([-0.3, 0.1, 0.5], dtype=torch.float64)
LOG_POTENTIALS = REWARD * torch.tensor([1.0, 0.8, 1.2, 0.9, 1.1, 1.0]).double()[:, None]
EXACT = chain_measure(INITIAL, KERNEL, LOG_POTENTIALS)

WHOLE = {"window": (0, 1)}
TRIGGERS = {
    "ess": {"ess": 0.85} | WHOLE,
    "conditional": {"ess": None, "conditional_ess": 0.93} | WHOLE,
    "every": {"ess": None, "every": 2} | WHOLE,
    "steps": {"ess": None, "steps": (0, 3, 5)} | WHOLE,
    "window": {"ess": 1.0, "window": (0.2, 0.9)},
    "entropic": {"ess": 0.9, "entropic": True} | WHOLE,
    "partial": {"ess": 0.9, "partial": 0.5} | WHOLE,
    "entropic_partial": {"ess": 0.9, "entropic": True, "partial": 0.6} | WHOLE,
}


def generators(prompts: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed * prompts + p) for p in range(prompts)]


def move(states: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    u = torch.rand(states.shape, generator=noise, dtype=torch.float64)
    return (u[..., None] > KERNEL.cumsum(1)[states]).sum(-1).clamp(max=2)


def start(prompts: int, particles: int, noise: torch.Generator) -> torch.Tensor:
    u = torch.rand(prompts, particles, generator=noise, dtype=torch.float64)
    return (u[..., None] > INITIAL.cumsum(0)).sum(-1).clamp(max=2)


def shares(cloud: Cloud, states: torch.Tensor) -> torch.Tensor:
    """Each state's estimated part of Z, (P, S)."""
    one_hot = torch.nn.functional.one_hot(states, 3).double()
    return (cloud.log_w.exp()[..., None] * one_hot).mean(1)


def run(cloud: Cloud) -> torch.Tensor:
    noise = torch.Generator().manual_seed(7)
    states = start(*cloud.log_w.shape, noise)
    for index in range(STEPS):
        states = move(states, noise)
        cloud.reweight(LOG_POTENTIALS[index][states])
        rows = cloud.resample(index, STEPS)
        if rows is not None:
            states = states.flatten()[rows].reshape(states.shape)
    return shares(cloud, states)


def repetitions(particles: int) -> int:
    return 8000 // particles


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "beam"])
@pytest.mark.parametrize("particles", [2, 4, 16])
def test_normaliser_is_unbiased(particles, scheme, trigger):
    prompts = repetitions(particles)
    settings = Resample(scheme, **TRIGGERS[trigger])
    cloud = Cloud(prompts, particles, settings, generators(prompts))
    estimate = run(cloud)
    assert any(rows is not None for rows in cloud.lineage)
    assert_mean(estimate, EXACT)
    assert_mean(cloud.log_z.exp(), EXACT.sum())


class Forgetful(Cloud):
    """Drops the weights where the trigger doesn't fire, as the reference implementation does."""

    def resample(self, index, total):
        fires = self.settings.fires(index, total, self.log_w)
        rows = super().resample(index, total)
        self.log_w = torch.where(fires[:, None], self.log_w, self.log_z[:, None])
        return rows


@pytest.mark.parametrize("particles", [4, 16])
@pytest.mark.parametrize("trigger", ["ess", "every", "steps"])
def test_dropped_weights_are_noticed(particles, trigger):
    prompts = repetitions(particles)
    settings = Resample(**TRIGGERS[trigger])
    estimate = run(Forgetful(prompts, particles, settings, generators(prompts)))
    with pytest.raises(AssertionError, match="z"):
        assert_mean(estimate, EXACT)


def test_beam_is_biased():
    prompts = repetitions(4)
    settings = Resample("beam", **TRIGGERS["every"])
    estimate = run(Cloud(prompts, 4, settings, generators(prompts)))
    with pytest.raises(AssertionError, match="z"):
        assert_mean(estimate, EXACT)


@pytest.mark.parametrize("particles", [2, 4, 16])
def test_adaptive_scale_is_unbiased(particles):
    prompts = repetitions(particles)
    cloud = Cloud(prompts, particles, Resample(ess=0.9, window=(0, 1)), generators(prompts))
    noise = torch.Generator().manual_seed(11)
    states = start(prompts, particles, noise)
    twist = torch.zeros(prompts, particles, dtype=torch.float64)
    scale = torch.zeros(prompts, dtype=torch.float64)
    used = []
    for index in range(STEPS):
        states = move(states, noise)
        direction = 2 * REWARD[states]
        scale = bisect_scale(cloud.log_w, direction, twist, target=0.97, low=scale)
        scale = torch.ones_like(scale) if index == STEPS - 1 else scale
        cloud.reweight(scale[:, None] * direction - twist)
        twist = scale[:, None] * direction
        used.append(scale)
        rows = cloud.resample(index, STEPS)
        if rows is not None:
            states = states.flatten()[rows].reshape(states.shape)
            twist = twist.flatten()[rows].reshape(twist.shape)
    assert torch.stack(used).diff(dim=0).min() >= 0
    assert used[0].min() < 0.9
    final = torch.cat([torch.zeros(STEPS - 1, 3), 2 * REWARD[None]])
    assert_mean(shares(cloud, states), chain_measure(INITIAL, KERNEL, final))

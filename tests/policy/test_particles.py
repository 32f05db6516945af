"""Steered chunks: an unbiased normaliser, and modes that warm starts keep apart."""

import pytest
import torch

from fkdiff import Resample, Tilt, as_reward
from fkdiff.policy import (
    ChunkSampler,
    SteeredPolicy,
    WarmStart,
    goal_distance,
    obstacle_distance,
    smoothness,
)
from tests.exact import assert_mean
from tests.policy import toy
from tests.policy.test_warm_start import MEAN, SPREAD, chain_law

PASSES = as_reward(lambda actions: actions.mean((1, 2)), name="passes", inputs="actions")


def gaussian(evaluations: int | None = 12, warm: WarmStart | None = None) -> ChunkSampler:
    levels = toy.ddpm()
    return ChunkSampler(
        toy.Gaussian(levels, SPREAD), levels, (2, 1), warm, cold_evaluations=evaluations
    )


@pytest.mark.parametrize("resample", [None, Resample(ess=1.0, window=(0.0, 1.0))])
def test_normaliser_is_unbiased(resample):
    """E exp(log Z) for a linear reward on the Gaussian law of the chain that is run."""
    policy = SteeredPolicy(gaussian(), Tilt(PASSES, scale=4.0), particles=4, resample=resample)
    decision = policy.decide(torch.full((3000, 1), MEAN))
    plan = policy.sampler.cold_plan
    mean, variance = chain_law(plan, [int(t) for t in plan.timesteps], 0.0, 1.0)
    exact = torch.tensor(4 * mean + 8 * variance / 2).exp()  # the mean of two independent actions
    (record,) = decision.steering
    assert_mean(record.log_z.exp(), exact)
    with pytest.raises(AssertionError, match="z"):
        assert_mean(record.log_z.exp(), exact * 1.05)
    assert bool(decision.cold.all()) and decision.actions.shape == (3000, 2, 1)


def modes(policy: SteeredPolicy, decisions: int = 12) -> list[torch.Tensor]:
    seen = torch.zeros(1, 1)
    return [
        policy.decide(seen, executed=1).chunks[0].mean((1, 2)).sign() for _ in range(decisions)
    ]


def test_warm_start_keeps_modes_apart():
    """Chunks that pass left or right stay on their side; cold decisions draw it anew."""
    levels = toy.ddim()
    net = toy.TwoModes(levels, 0.05)
    warm = SteeredPolicy(ChunkSampler(net, levels, (4, 1), WarmStart(start=25)), particles=64)
    first, *later = modes(warm)
    assert 8 < int((first > 0).sum()) < 56
    assert all(torch.equal(first, sides) for sides in later)
    cold = SteeredPolicy(ChunkSampler(net, levels, (4, 1), WarmStart(start=100)), particles=64)
    first, *later = modes(cold, 3)
    assert not any(torch.equal(first, sides) for sides in later)


def test_steering_chooses_a_side_and_reset_forgets_it():
    levels = toy.ddim()
    sampler = ChunkSampler(toy.TwoModes(levels, 0.05), levels, (4, 1), WarmStart(start=25))
    policy = SteeredPolicy(sampler, Tilt(PASSES, scale=8.0), particles=16, seed=2)
    for _ in range(3):
        decision = policy.decide(torch.zeros(4, 1))
        assert bool((decision.actions.mean((1, 2)) > 0.5).all())
    policy.reset([2])
    assert policy.decide(torch.zeros(4, 1)).cold.tolist() == [False, False, True, False]


def test_same_seed_same_chunks_whoever_else_is_there():
    def chunks(ids: list[int]) -> torch.Tensor:
        policy = SteeredPolicy(gaussian(warm=WarmStart(start=9)), particles=3, seed=5)
        for _ in range(2):
            decision = policy.decide(torch.full((len(ids), 1), 0.2), ids)
        return decision.chunks[ids.index(7)]

    assert torch.allclose(chunks([7]), chunks([1, 7, 3]), atol=1e-6)


def test_trajectory_rewards():
    actions = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0]] * 3])
    seen = torch.zeros(2, 2)

    def start(o):
        return o[:, :2]

    goal = goal_distance((3.0, 0.0), start)
    assert goal(actions, observations=seen).tolist() == pytest.approx([0.0, -(18**0.5)])
    clear = obstacle_distance((2.0, 0.0), 0.5, start)
    assert clear(actions, observations=list(seen)).tolist() == pytest.approx([-0.5, 0.0])
    assert smoothness()(actions).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="radius must be positive"):
        obstacle_distance((0.0, 0.0), 0.0, start)


def test_obstacle_is_avoided_through_the_engine():
    """Two modes go left and right of the middle; an obstacle on the right leaves the left."""
    levels = toy.ddim()
    sampler = ChunkSampler(toy.TwoModes(levels, 0.05), levels, (4, 1), WarmStart(start=25))
    reward = obstacle_distance((2.0,), 1.5, lambda o: o[:, :1], dims=(0,))
    policy = SteeredPolicy(sampler, Tilt(reward, scale=20.0), particles=16)
    decision = policy.decide(torch.zeros(5, 1))
    assert bool((decision.actions.mean((1, 2)) < -0.5).all())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="particles must be"):
        SteeredPolicy(gaussian(), particles=0)
    with pytest.raises(ValueError, match="select must be"):
        SteeredPolicy(gaussian(), select="all")
    pixels = SteeredPolicy(gaussian(), Tilt(lambda pixels: pixels, scale=1.0))
    with pytest.raises(ValueError, match="actions or latents"):
        pixels.decide(torch.zeros(1, 1))

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


COMPANIES = {
    "alone": [[7], [7], [7]],
    "at another place": [[1, 7, 3], [3, 1, 7], [7, 1]],
    "cold and warm": [[7], [1, 7], [2, 7, 3]],
    "others decide in between": [[1], [7], [1], [1, 3], [7], [3], [7]],
}


def decisions_of_7(company, select, seed=5):
    """Chunks and actions of environment 7, and how often its particles were resampled."""
    policy = SteeredPolicy(
        gaussian(warm=WarmStart(start=30, evaluations=5)),
        Tilt(PASSES, scale=6.0),
        particles=6,
        resample=Resample(ess=1.0, window=(0.0, 1.0)),
        select=select,
        seed=seed,
    )
    found, moved = [], 0
    for ids in company:
        decision = policy.decide(torch.full((len(ids), 1), 0.2), ids)
        if 7 in ids:
            place = ids.index(7)
            found += [decision.chunks[place].flatten(), decision.actions[place].flatten()]
            of_7 = [
                (r, r.prompts.index("environment 7"))
                for r in decision.steering
                if "environment 7" in r.prompts
            ]
            moved += sum(int(e.resampled[at]) for r, at in of_7 for e in r.trace)
    return torch.cat(found), moved


@pytest.mark.parametrize("select", ["best", "sample"])
def test_same_seed_same_chunks_whoever_else_is_there(select):
    found = {name: decisions_of_7(c, select) for name, c in COMPANIES.items()}
    alone, moved = found.pop("alone")
    assert moved >= 6  # the streams of resampling are used
    for name, (chunks, _) in found.items():
        assert torch.allclose(chunks, alone, atol=1e-6), name
    other, _ = decisions_of_7(COMPANIES["alone"], select, seed=6)
    assert not torch.allclose(other, alone, atol=1e-2)


def test_no_two_runs_of_a_policy_share_a_seed():
    """Whether cold or warm, of one decision or of two, every environment's run has its own."""
    policy = SteeredPolicy(gaussian(warm=WarmStart(start=9)), Tilt(PASSES), particles=3)
    seeds = []
    for ids in ([0], [0, 1], [2, 1, 0]):
        decision = policy.decide(torch.zeros(len(ids), 1), ids)
        assert len(decision.steering) == 1 + (len(ids) > 1)
        seeds += [s for record in decision.steering for s in record.settings["seeds"]]
        policy.reset([1])
    assert len(set(seeds)) == len(seeds) == 6
    one = decision.steering[0].split()[0]
    assert one.seed == decision.steering[0].settings["seeds"][0]


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

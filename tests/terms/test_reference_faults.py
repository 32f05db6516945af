"""Five faults of FK steering's reference implementation, each with its wrong and right answer.

Right answers are exact; estimates of them are unbiased and tested by their own standard errors.
"""

import math
from contextlib import nullcontext

import pytest
import torch
from torch.testing import assert_close

from fkdiff import Tilt, as_reward
from fkdiff.smc import Resample
from fkdiff.terms import RepairWarning
from fkdiff.terms.reward import RewardError
from tests.analytic import (
    MIXTURE,
    TYPES,
    Data,
    cloud,
    latent_reward,
    pipeline,
    resampled,
)
from tests.exact import affine_law, assert_mean, grid_law, tilted_points

EVERY = Resample(ess=None, window=(0, 1))


def positive(x):
    """Indicator of the better type, (n,)."""
    return (x[:, 0] > 0).double()


def positive_rows(result):
    """The same of a cloud, (P, K)."""
    return (result.latents.flatten(2)[..., 0] > 0).double()


def share(result, log_z=0.0):
    """Each prompt's Z-hat times the share of the better type, over Z: unbiased, (P,)."""
    return ((result.log_w - log_z).exp() * positive_rows(result)).mean(1)


# --- Fault 1: adaptive resampling forgets the weights of every step at which it doesn't fire.


def test_weights_survive_when_resampling_does_not_fire():
    """Twice .45 between two types: share .711 of the better one, .500 if weights are dropped."""
    tilt = Tilt(latent_reward(positive), scale=0.9)
    result = cloud("ddim_eta1", TYPES, tilt, prompts=400, resample=Resample())
    assert not resampled(result)
    log_z = math.log((1 + math.exp(0.9)) / 2)
    assert_mean(result.log_z.sub(log_z).exp(), 1.0)
    assert_mean(share(result, log_z), 1 / (1 + math.exp(-0.9)))
    assert 1 / (1 + math.exp(-0.9)) == pytest.approx(0.711, abs=1e-3)
    with pytest.raises(AssertionError, match="z"):
        assert_mean(positive_rows(result).mean(1), 0.711)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_mean_of_a_tilted_normal_is_the_scale(scale):
    """N(0, 1) times exp(scale x) has mean scale; the reference gives 0 whatever the scale."""
    one = torch.ones(1, 1, dtype=torch.float64)
    normal = Data(one[0], 0 * one, one)
    tilt = Tilt(latent_reward(lambda x: x[:, 0]), scale=scale)
    settings = {"prompts": 150, "steps": 30, "particles": 8, "resample": Resample()}
    result = cloud("ddim_eta1", normal, tilt, **settings)
    mean, variance = affine_law(pipeline("ddim_eta1", normal), 30, 1.0)
    tilted, log_z = float(mean + scale * variance), float(scale**2 * variance / 2 + scale * mean)
    assert tilted == pytest.approx(scale, rel=0.25)  # thirty steps fall short of the data's law
    weights = (result.log_w - log_z).exp()
    assert_mean((weights * result.latents.flatten(1)).mean(1), tilted)
    assert_mean(weights.mean(1), 1.0)


# --- Fault 2: max and sum end with the running value instead of the reward of the sample.


def passing(x):
    """High where only estimates of the better type pass, zero at all samples."""
    return 1.5 * ((x[:, 0] > 0.15) & (x[:, 0] < 0.75)).double()


class Unrepaired(Tilt):
    """Max and sum as the reference has them: the last potential isn't repaired."""

    def log_twist(self, step, state):
        twist, new = super().log_twist(step, state)
        return (state["twist"].reshape(twist.shape), state) if step.final else (twist, new)


@pytest.mark.parametrize("potential", ["max", "sum", "current", "difference"])
def test_equal_final_rewards_give_equal_shares(potential):
    """The better-looking type gets .5 of the cloud, not .8: its final reward is no better."""
    when = Resample(ess=None, steps=(14, 17))
    settings = {"prompts": 120, "particles": 16, "steps": 24, "resample": when}
    terms = [kind(latent_reward(passing), potential=potential) for kind in (Tilt, Unrepaired)]
    with pytest.warns(RepairWarning) if potential == "sum" else nullcontext():
        right, wrong = (cloud("ddim_eta1", TYPES, term, **settings) for term in terms)
    assert resampled(right)
    assert (right.log_twist != 0).double().mean() < 0.01
    assert_mean(share(right), 0.5)
    if potential != "difference":
        wrong_share = share(wrong).sum() / wrong.log_z.exp().sum()
        assert wrong_share > 0.7


# --- Fault 3: weights in linear space, clamped at 1e10, so that a large scale steers nothing.

GRADES = Data(
    torch.full((4,), 0.25, dtype=torch.float64),
    torch.tensor([[-3.0], [-1.0], [1.0], [3.0]], dtype=torch.float64),
    torch.full((4, 1), 1e-3, dtype=torch.float64),
)


def grades(x):
    """A judge's 3, 5, 7 or 9, by the nearest of four types."""
    return 3 + 2 * torch.bucketize(x[:, 0].contiguous(), torch.tensor([-2.0, 0.0, 2.0]).double())


def test_large_scales_still_steer():
    """Grades 3, 5, 7, 9 at scale 10: weights are softmax(10 r), not .25 each."""
    tilt = Tilt(latent_reward(grades, name="judge"), scale=10.0)
    result = cloud("ddim_eta1", GRADES, tilt, particles=40, resample=None)
    rewards = result.rewards["judge"]
    assert set(rewards.flatten().tolist()) == {3, 5, 7, 9}
    assert_close(result.weights, torch.softmax(10 * rewards, dim=1))
    best = (rewards == 9).double()
    assert_close(result.mean(best), torch.ones(1).double(), atol=1e-8, rtol=0)


def test_large_scales_keep_their_normaliser():
    """log Z = 90 + log of the best type's probability, where exp would be beyond any clamp."""
    tilt = Tilt(latent_reward(grades), scale=10.0)
    # Late enough for a particle's type to be settled: weights of e^20 leave no second chance.
    late = Resample(ess=None, steps=(6,))
    result = cloud("ddim_eta1", GRADES, tilt, particles=16, prompts=200, resample=late)
    assert resampled(result)
    points, mass = grid_law(pipeline("ddim_eta1", GRADES), 8, 1.0)
    law = tilted_points(points, mass, 10 * grades(points[:, None]))
    assert law.log_z == pytest.approx(90 + math.log(0.25), abs=0.5)
    assert_mean((result.log_z - law.log_z).exp(), 1.0)


# --- Fault 4: products of potentials overflow after a few resamplings.


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "current"])
def test_products_of_large_potentials_stay_finite(potential):
    """Rewards near 1.9 at scale 1000: factors of e^1900 at each of seven resamplings."""
    tilt = Tilt(latent_reward(lambda x: 1.9 + 1e-4 * x[:, 0]), scale=1000.0, potential=potential)
    result = cloud("ddim_eta1", MIXTURE, tilt, prompts=300, resample=EVERY)
    assert resampled(result)
    assert sum(bool(t.resampled.any()) for t in result.trace) >= 5
    points, mass = grid_law(pipeline("ddim_eta1", MIXTURE), 8, 1.0)
    law = tilted_points(points, mass, 0.1 * points)
    weights = (result.log_w - 1900 - law.log_z).exp()
    assert_mean(weights.mean(1), 1.0)
    assert_mean((weights * result.latents.flatten(1)).mean(1), law.mean[0])


# --- Fault 5: all weights zero becomes NaN or an error of torch.multinomial.


def test_all_weights_zero_is_told():
    never = latent_reward(lambda x: torch.full((len(x),), -torch.inf))
    with pytest.raises(ValueError, match="all particles of prompt 0 have weight zero"):
        cloud("ddim_eta1", MIXTURE, Tilt(never))


def test_the_prompt_that_lost_all_weight_is_named():
    def no_dogs(x, prompts):
        return torch.tensor([-torch.inf if p == "a dog" else 0.0 for p in prompts])

    tilt = Tilt(as_reward(no_dogs, inputs="latents"))
    with pytest.raises(ValueError, match="all particles of prompt 1 have weight zero"):
        cloud("ddim_eta1", MIXTURE, tilt, prompts=["a cat", "a dog"])


# "sum" grows so steep here that its last repair is too heavy-tailed to test with 200 clouds.
@pytest.mark.parametrize("potential", ["difference", "max", "current", "none"])
def test_some_weights_zero_give_the_probability_of_the_rest(potential):
    """A hard constraint: Z is its probability, and no particle that breaks it has weight.

    An estimate that breaks it may recover: were it ended, Z would come out at a quarter.
    """
    positive = latent_reward(lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf))
    tilt = Tilt(positive, potential=potential)
    with pytest.warns(RepairWarning) if potential in ("max", "current") else nullcontext():
        result = cloud("ddim_eta1", TYPES, tilt, particles=16, prompts=200)
    assert_mean(result.log_z.exp(), 0.5)
    assert_close(result.mean(positive_rows(result)), torch.ones(200).double())


def test_nan_is_told_with_reward_step_and_particles():
    """The reference turns it into a weight of zero."""

    def broken(x):
        return torch.where(x[:, 0] < x[:, 0].max(), 0.0, torch.nan)

    with pytest.raises(
        RewardError, match=r"'broken' returned NaN at step \d of 8 for particle \d"
    ):
        cloud("ddim_eta1", MIXTURE, Tilt(latent_reward(broken, name="broken")))

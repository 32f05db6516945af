"""FK steering reaches the law it states, through real schedulers, with the right normaliser.

The exact law is that of the discretised chain times exp(scale * reward). Ratios of weighted means
are biased of order 1/K, so what is tested is unbiased for every K: each prompt's Z-hat, and Z-hat
times the weighted means of x and x^2, over Z. Prompts are the independent repetitions.
"""

import functools
import zlib
from contextlib import nullcontext
from typing import get_args

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fkdiff import Tilt
from fkdiff.smc import Resample
from fkdiff.terms import RepairWarning
from fkdiff.terms.fk_steering import Potential
from tests.analytic import (
    CHAINS,
    GAUSSIAN,
    MIXTURE,
    Chain,
    cloud,
    latent_reward,
    pipeline,
    resampled,
)
from tests.exact import (
    affine_law,
    assert_mean,
    grid_law,
    replaced_law,
    tilted_gaussian,
    tilted_points,
)

STEPS = 8
PROMPTS = 250
# slope and curvature of sum(s x - c x^2 / 2): linear rewards move the law, curved ones narrow it
REWARDS = {"linear": (1.6, 0.0), "quadratic": (0.8, 2.0)}


def reward(slope, curve, name="reward"):
    return latent_reward(lambda x: (slope * x - curve * x**2 / 2).sum(1), name)


@pytest.fixture
def seed(request):
    """Another noise for each test, so that their z-scores are not one event."""
    return zlib.crc32(request.node.name.encode())


@functools.cache
def exact(name, mixture, slope, curve):
    """Moments of the tilted law of a chain."""
    chain = CHAINS[name]
    pipe = pipeline(chain, MIXTURE if mixture else GAUSSIAN)
    if mixture:
        points, mass = grid_law(pipe, STEPS, chain.eta, chain.replaced)
        return tilted_points(points, mass, slope * points - curve * points**2 / 2)
    law = replaced_law(pipe, STEPS) if chain.replaced else affine_law(pipe, STEPS, chain.eta)
    return tilted_gaussian(*law, slope, curve)


def run(chain, data, *terms, prompts=PROMPTS, **settings):
    return cloud(chain, data, *terms, prompts=prompts, steps=STEPS, **settings)


def estimates(result, law, log_w=None):
    """Z-hat and Z-hat times the weighted means of x and x^2, over Z: unbiased, (P, 1 + 2 d)."""
    log_w = result.log_w if log_w is None else log_w
    share = (log_w - law.log_z).exp()[..., None]
    x = result.latents.flatten(2)
    return torch.cat([share, share * x, share * x**2], -1).mean(1)


def moments(law):
    one = torch.ones(1, dtype=torch.float64)
    return torch.cat([one, law.mean, law.variance + law.mean**2])


def assert_law(result, law):
    assert_mean(estimates(result, law), moments(law))


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("chain", CHAINS)
def test_gaussian_data(chain, kind, seed):
    result = run(chain, GAUSSIAN, Tilt(reward(*REWARDS[kind])), seed=seed)
    assert resampled(result)
    assert (result.settings["replaced_step"] is not None) == CHAINS[chain].replaced
    assert_law(result, exact(chain, False, *REWARDS[kind]))


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("chain", [name for name, chain in CHAINS.items() if chain.markov])
def test_mixture_data(chain, kind, seed):
    result = run(chain, MIXTURE, Tilt(reward(*REWARDS[kind])), seed=seed)
    assert resampled(result)
    assert_law(result, exact(chain, True, *REWARDS[kind]))


SCHEDULES = {"whole": None, "square": lambda progress: progress**2, "adaptive": "adaptive"}


@pytest.mark.parametrize(
    "potential, schedule",
    [(p, s) for p in get_args(Potential) for s in ("whole", "square")]
    + [("difference", "adaptive")],
)
def test_every_potential_and_schedule_has_one_target(potential, schedule, seed):
    tilt = Tilt(
        reward(0.8, 0.0), potential=potential, schedule=SCHEDULES[schedule], adaptive_ess=0.99
    )
    resample = Resample(ess=0.95, window=(0.2, 0.9))
    steep = (potential, schedule) == ("sum", "whole")  # one cloud of 250 is left with one particle
    with pytest.warns(RepairWarning) if steep else nullcontext():
        result = run("flow_replaced", MIXTURE, tilt, resample=resample, stochastic=True, seed=seed)
    assert resampled(result) == (potential != "none")
    assert_law(result, exact("flow_replaced", True, 0.8, 0.0))


@pytest.mark.parametrize("schedule", [None, "adaptive"])
def test_draws_behind_intermediate_rewards_leave_the_target(schedule, seed):
    tilt = Tilt(reward(0.8, 2.0), draws=3, schedule=schedule)
    resample = Resample(ess=0.95)
    result = run("ddim_eta_half", MIXTURE, tilt, resample=resample, seed=seed)
    assert resampled(result)
    assert_law(result, exact("ddim_eta_half", True, 0.8, 2.0))


RESAMPLES = {
    "none": None,
    "ess": Resample(ess=0.95),
    "every": Resample("multinomial", ess=None, window=(0, 1)),
    "late": Resample("ssp", ess=None, steps=(5, 6, 7), window=(0, 1)),
    "entropic": Resample(ess=0.9, entropic=True),
    "partial": Resample("residual", ess=0.9, partial=0.5),
    "conditional": Resample("stratified", ess=None, conditional_ess=0.95),
}


@pytest.mark.parametrize("particles", [2, 16])
@pytest.mark.parametrize("how", RESAMPLES)
def test_every_resampling_has_one_target(how, particles, seed):
    prompts = 2 * PROMPTS // particles + 200
    result = run(
        "ddim_eta_half",
        MIXTURE,
        Tilt(reward(1.2, 0.0)),
        resample=RESAMPLES[how],
        particles=particles,
        prompts=prompts,
        seed=seed,
    )
    assert resampled(result) == (how != "none")
    assert_law(result, exact("ddim_eta_half", True, 1.2, 0.0))


def test_calibration_and_scale(seed):
    """The tilt is scale * (r - mean) / sd: here slope 3 * 0.8 / 2 and a constant -3 * 0.5 / 2."""
    tilted = latent_reward(lambda x: 0.8 * x.sum(1), mean=0.5, sd=2.0)
    result = run("ddpm", GAUSSIAN, Tilt(tilted, scale=3.0), seed=seed)
    law = exact("ddpm", False, 1.2, 0.0)
    assert_mean((result.log_z + 0.75 - law.log_z).exp(), 1.0)
    assert_mean(estimates(result, law, result.log_w + 0.75), moments(law))


def test_untilted_law_is_the_chain_s(seed):
    """The exact law itself: without a tilt, weights are one and the sample has its moments."""
    for name in CHAINS:
        result = run(
            name, GAUSSIAN, particles=2, stochastic=CHAINS[name].replaced or None, seed=seed
        )
        assert result.log_w.abs().max() == 0
        assert_law(result, exact(name, False, 0.0, 0.0))


def fails(samples, target):
    with pytest.raises(AssertionError, match="z"):
        assert_mean(samples, target)


@pytest.mark.parametrize("resample", [None, Resample()])
@pytest.mark.parametrize("mixture", [False, True])
def test_ignored_weights_are_noticed(mixture, resample, seed):
    data = MIXTURE if mixture else GAUSSIAN
    result = run("ddim_eta1", data, Tilt(reward(1.6, 0.0)), resample=resample, seed=seed)
    law = exact("ddim_eta1", mixture, 1.6, 0.0)
    assert_law(result, law)
    level = (result.log_z[:, None]).expand_as(result.log_w)
    fails(estimates(result, law, level), moments(law))


def test_flipped_sign_is_noticed(seed):
    result = run("ddim_eta1", GAUSSIAN, Tilt(reward(1.6, 0.0), scale=-1), seed=seed)
    fails(estimates(result, exact("ddim_eta1", False, 1.6, 0.0)), torch.ones(5))
    assert_law(result, exact("ddim_eta1", False, -1.6, 0.0))


class Unrepaired(Tilt):
    """Ends with its last intermediate twist instead of that of the sample."""

    def log_twist(self, step, state):
        twist, new = super().log_twist(step, state)
        return (state["twist"].reshape(twist.shape), state) if step.final else (twist, new)


def test_missing_last_twist_is_noticed(seed):
    half = Resample(ess=0.9, window=(0, 0.6))
    result = run("ddim_eta1", MIXTURE, Unrepaired(reward(1.6, 0.0)), resample=half, seed=seed)
    law = exact("ddim_eta1", True, 1.6, 0.0)
    fails(estimates(result, law), moments(law))
    assert_law(run("ddim_eta1", MIXTURE, Tilt(reward(1.6, 0.0)), resample=half, seed=seed), law)


def test_stochastic_sampling_of_flow_matching_is_no_sde(seed):
    """diffusers' option draws fresh noise each step: variance .044 where the data has .090.

    The cloud still stands for the chain that is run; fkdiff's own step tends to the data law.
    """
    chain = Chain(
        FlowMatchEulerDiscreteScheduler, (("stochastic_sampling", True),), "flow_prediction"
    )
    fine = affine_law(pipeline(chain, GAUSSIAN), 200, 0.0)
    assert fine[1][0] == pytest.approx(0.044, abs=0.001)
    ours = replaced_law(pipeline("flow_replaced", GAUSSIAN), 400)
    torch.testing.assert_close(ours[1], GAUSSIAN.variances[0], rtol=0.06, atol=0)
    law = tilted_gaussian(*affine_law(pipeline(chain, GAUSSIAN), STEPS, 0.0), 1.6, 0.0)
    assert_law(run(chain, GAUSSIAN, Tilt(reward(1.6, 0.0)), seed=seed), law)

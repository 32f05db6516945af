"""Predictions round-trip, SDE steps are diffusers' own where it has one, kernels are normal."""

import math

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fkdiff.processes import (
    PREDICTIONS,
    Gaussian,
    Kernel,
    output_to_epsilon,
    predict_epsilon,
    predict_score,
    predict_x0,
    randn_rows,
    sde_step,
)
from fkdiff.processes.streams import prompt_generators, slot_generators, stream

ETAS = pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def output_of(prediction, x0, epsilon, alpha, sigma):
    """What a perfect network of this prediction type returns, from each type's definition."""
    power = (alpha**2 + sigma**2) ** 0.5
    return {
        "epsilon": epsilon,
        "v_prediction": (alpha * epsilon - sigma * x0) / power,
        "flow_prediction": epsilon - x0,
        "sample": x0,
    }[prediction]


angles = st.floats(0.01, 1.56).map(lambda angle: (math.cos(angle), math.sin(angle)))
sigmas = st.floats(1e-3, 200.0).map(lambda sigma: (1.0, sigma))
flow_grid = st.floats(1e-3, 0.999).map(lambda sigma: (1 - sigma, sigma))
grids = st.one_of(angles, sigmas, flow_grid)


@given(
    pair_and_type=st.one_of(
        st.tuples(grids, st.sampled_from(["epsilon", "v_prediction", "sample"])),
        st.tuples(flow_grid, st.just("flow_prediction")),
    ),
    seed=st.integers(0, 1000),
)
def test_every_prediction_type_gives_back_data_noise_and_score(pair_and_type, seed):
    (alpha, sigma), prediction = pair_and_type
    x0, epsilon = normal(2, 3, seed=seed), normal(2, 3, seed=seed + 1)
    x = alpha * x0 + sigma * epsilon
    found = predict_x0(
        x, output_of(prediction, x0, epsilon, alpha, sigma), alpha, sigma, prediction
    )
    # Cancellation costs a factor sigma / alpha of the rounding for x0, its inverse for epsilon.
    close = {"rtol": 1e-9, "atol": 1e-12 * (1 + sigma / alpha)}
    torch.testing.assert_close(found, x0, **close)
    close = {"rtol": 1e-8, "atol": 1e-11 * (1 + alpha / sigma)}
    torch.testing.assert_close(predict_epsilon(x, x0, alpha, sigma), epsilon, **close)
    output = output_of(prediction, x0, epsilon, alpha, sigma)
    noise = output_to_epsilon(x, output, alpha, sigma, prediction)
    torch.testing.assert_close(noise, epsilon, **close)
    given_x0 = torch.distributions.Normal(alpha * x0, sigma)
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(given_x0.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(predict_score(x, x0, alpha, sigma), score)


def test_unknown_prediction_type_names_the_known_ones():
    with pytest.raises(ValueError, match="epsilon, v_prediction, flow_prediction, sample"):
        predict_x0(torch.zeros(1), torch.zeros(1), 1.0, 1.0, "noise")
    assert len(PREDICTIONS) == 4


@ETAS
def test_on_a_variance_preserving_grid_it_is_ddim(eta):
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(7)
    t, after = scheduler.timesteps[2], scheduler.timesteps[3]
    bars = [float(scheduler.alphas_cumprod[i]) for i in (t, after)]
    path = Gaussian(bars[0] ** 0.5, (1 - bars[0]) ** 0.5, bars[1] ** 0.5, (1 - bars[1]) ** 0.5)
    x, epsilon, z = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    theirs = scheduler.step(epsilon, t, x, eta=eta, variance_noise=z)
    kernel = sde_step(x, theirs.pred_original_sample, path, eta)
    ours = kernel.mean + kernel.std * z
    # diffusers keeps its coefficients in float32
    torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-5, atol=1e-5)


def test_with_eta_1_it_is_the_posterior_of_ddpm():
    bar, bar_next = 0.3, 0.6
    x, x0 = normal(3, 4), normal(3, 4, seed=1)
    path = Gaussian(bar**0.5, (1 - bar) ** 0.5, bar_next**0.5, (1 - bar_next) ** 0.5)
    kernel = sde_step(x, x0, path)
    ratio = bar / bar_next
    mean = bar_next**0.5 * (1 - ratio) * x0 + ratio**0.5 * (1 - bar_next) * x
    torch.testing.assert_close(kernel.mean, mean / (1 - bar))
    assert kernel.std**2 == pytest.approx((1 - ratio) * (1 - bar_next) / (1 - bar))


def test_on_a_variance_exploding_grid_it_is_the_ancestral_euler_step():
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    scheduler.set_timesteps(7)
    x, epsilon = normal(3, 4).float(), normal(3, 4, seed=1).float()
    for _ in range(2):
        scheduler.step(epsilon, scheduler.timesteps[scheduler.step_index or 0], x)
    i = scheduler.step_index
    slots = slot_generators(0, 1, 3)
    theirs = scheduler.step(epsilon, scheduler.timesteps[i], x, generator=slots)
    path = Gaussian(1.0, float(scheduler.sigmas[i]), 1.0, float(scheduler.sigmas[i + 1]))
    ours = sde_step(x, theirs.pred_original_sample, path).sample(slot_generators(0, 1, 3))
    torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-5, atol=1e-5)


@ETAS
@pytest.mark.parametrize(
    "path",
    [
        Gaussian(0.6, 0.8, 0.8, 0.6),
        Gaussian(1.0, 14.0, 1.0, 3.0),
        Gaussian(0.2, 0.8, 0.5, 0.5),
        Gaussian(0.0, 1.0, 0.1, 0.9),
    ],
    ids=["preserving", "exploding", "flow", "flow from pure noise"],
)
def test_given_the_data_the_step_keeps_the_marginal(path, eta):
    """If x is N(alpha x0, sigma^2) and the estimate is x0, x' is N(alpha' x0, sigma'^2)."""
    x0 = torch.tensor([[2.0]], dtype=torch.float64)
    at = [sde_step(path.alpha * x0 + path.sigma * e, x0, path, eta) for e in (0.0, 1.0)]
    slope = float(at[1].mean - at[0].mean)
    torch.testing.assert_close(at[0].mean, path.alpha_next * x0)
    assert slope**2 + at[0].std ** 2 == pytest.approx(path.sigma_next**2)
    assert at[0].std <= path.sigma_next
    assert (at[0].std == 0) == (eta == 0)


def test_the_last_step_is_the_estimate_without_noise():
    x, x0 = normal(2, 3), normal(2, 3, seed=1)
    kernel = sde_step(x, x0, Gaussian(0.9, 0.1, 1.0, 0.0))
    assert kernel.std == 0
    assert torch.equal(kernel.sample([]), x0)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match="eta must be in"):
        sde_step(torch.zeros(1, 1), torch.zeros(1, 1), Gaussian(0.6, 0.8, 0.8, 0.6), eta)


def test_kernel_density_is_the_normal_one():
    mean, x = normal(3, 2, 4).float(), normal(3, 2, 4, seed=1).float()
    exact = torch.distributions.Normal(mean.double(), 0.3).log_prob(x.double()).flatten(1).sum(1)
    found = Kernel(mean, 0.3).log_prob(x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


def test_kernel_draws_have_its_mean_and_spread():
    draws = Kernel(torch.full((2, 40_000), 1.5), 0.2).sample(slot_generators(0, 1, 2))
    assert draws.mean().item() == pytest.approx(1.5, abs=4.5 * 0.2 / 80_000**0.5)
    assert draws.std().item() == pytest.approx(0.2, rel=4.5 / 160_000**0.5)


def test_a_deterministic_kernel_has_no_density():
    with pytest.raises(ValueError, match="std must be positive"):
        Kernel(torch.zeros(1, 1), 0.0).log_prob(torch.zeros(1, 1))


def test_a_row_depends_on_its_own_generator_alone():
    like = torch.zeros(4, 3)
    together = randn_rows(like, slot_generators(5, 2, 2))
    apart = [randn_rows(like[:1], [g])[0] for g in slot_generators(5, 2, 2)]
    assert torch.equal(together, torch.stack(apart))
    assert len({tuple(row.tolist()) for row in together}) == 4
    with pytest.raises(ValueError, match="must number 4"):
        randn_rows(like, slot_generators(5, 1, 2))


def test_streams_depend_on_seed_prompt_and_slot_not_on_how_many_there_are():
    seeds = [g.initial_seed() for g in slot_generators(1, 3, 4)]
    assert seeds[:4] == [g.initial_seed() for g in slot_generators(1, 1, 4)]
    assert seeds[4:6] == [g.initial_seed() for g in slot_generators(1, 2, 2)][2:]
    others = [g.initial_seed() for g in prompt_generators(1, 3, "resampling")]
    others += [g.initial_seed() for g in slot_generators(2, 3, 4)]
    assert len({*seeds, *others}) == len(seeds) + len(others)
    assert 0 <= stream(-1, "x").initial_seed() < 2**63


def test_log_snr_rises_along_a_path_and_starts_at_minus_infinity():
    assert Gaussian(0.0, 1.0, 0.1, 0.9).log_snr == -torch.inf
    assert Gaussian(0.1, 0.9, 0.5, 0.5).log_snr < Gaussian(0.5, 0.5, 1.0, 0.0).log_snr

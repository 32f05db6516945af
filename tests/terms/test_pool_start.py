"""Where a pool starts, what its exponents sum to, and its estimate."""

import math

import pytest
import torch

from fkdiff import Anneal, Correct, Grid, Product, Resample, RLGuidance, sample
from fkdiff.processes import Gaussian
from fkdiff.terms.correctors import pool_estimate
from fkdiff.terms.pool import Expert, compose, exponent_sum
from tests.taps.test_pool import Watching

pytestmark = pytest.mark.filterwarnings("ignore:Correct")
ONE = torch.zeros(1, 1)


def normal(mean):
    return lambda x, alpha, sigma: -(x - alpha * mean) / (alpha**2 + sigma**2)


POOLS = {
    "annealed": ((Anneal(2.5),), 2.5),
    "softened": ((Anneal(0.4),), 0.4),
    "product": ((Product(normal(1.0), 0.7),), 1.7),
    "annealed product": ((Anneal(1.5), Product(normal(1.0), 0.5)), 2.25),
    "ratio": ((Product(normal(1.0), 0.5, against="cond"),), 1.0),
    "guided": ((RLGuidance(normal(1.0), 1.6), Anneal(3.0)), 3.0),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_sum_of_the_exponents_is_that_of_the_experts(name):
    terms, total = POOLS[name]
    pool = compose(terms, [Expert("cond", 1.0, ONE)], lambda source, branch: ONE)
    assert sum(expert.b for expert in pool) == pytest.approx(total)
    assert exponent_sum(terms) == pytest.approx(total)


@pytest.mark.parametrize("name", POOLS)
def test_a_corrected_run_starts_with_the_pool_s_variance(name):
    """N(0, sigma^2 / B): in 4000 x 4 numbers the variance is within 4.5 standard errors."""
    terms, total = POOLS[name]
    seen = []
    watching = Watching(lambda step: seen.append((step.x, step.path.sigma)))
    sample(
        normal(0.0), Grid.vp(3, prediction="score"), *terms, Correct(), watching,
        shape=(4,), particles=4000, seed=3, resample=None,
    )  # fmt: skip
    x, sigma = seen[0]
    ratio = float(x.double().square().mean()) * total / sigma**2
    assert abs(ratio - 1) < 4.5 * math.sqrt(2 / x.numel())


def test_the_estimate_is_that_of_the_mean_expert():
    path = Gaussian(0.1, math.sqrt(0.99), 0.2, math.sqrt(0.96))
    noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    x = noise[0] * path.sigma
    pool = [(1.5, noise[0]), (-0.3, noise[1])]
    exact = (x - path.sigma * (1.5 * noise[0] - 0.3 * noise[1]) / 1.2) / path.alpha
    torch.testing.assert_close(pool_estimate(x, path, pool), exact)


def test_estimates_of_an_annealed_run_stay_near_the_data():
    """At high noise an estimate without its division by B is of the size sigma / alpha."""
    seen = []
    watching = Watching(lambda step: seen.append(step.x0.abs().max()))
    sample(
        normal(0.0), Grid.vp(20, prediction="score"), Anneal(2.5), Correct(), watching,
        shape=(2,), particles=200, seed=3, resample=Resample(ess=0.5),
    )  # fmt: skip
    assert float(max(seen)) < 6


@pytest.mark.parametrize("mean", [1.5, -0.7])
def test_the_control_makes_weights_of_gaussian_experts_constant(mean):
    """To the discretisation error, and only about the experts' own mean."""
    spread = []
    for assumed in (mean, 0.0, -mean):
        result = sample(
            normal(mean), Grid.vp(60, prediction="score"), Anneal(2.0), Correct(mean=assumed),
            shape=(3,), particles=200, seed=3, resample=None,
        )  # fmt: skip
        spread.append(float(result.log_w.std()))
    assert 5 * spread[0] < spread[1] < spread[2]

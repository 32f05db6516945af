"""The SDE step tends to the data law as steps get small, on every kind of grid, for every eta.

With Gaussian data each step is affine, so the law of the whole chain is a recursion of means and
variances: no sampling, no tolerance to guess.
"""

import math
from itertools import pairwise

import pytest
import torch

from fkdiff.processes import Gaussian, sde_step
from tests.analytic import GAUSSIAN
from tests.exact import posterior


def vp(t):
    """Variance preserving, even in log-SNR."""
    angle = math.atan(math.exp(6 * t - 3))
    return math.cos(angle), math.sin(angle)


GRIDS = {
    "flow": lambda t: (1 - t, t),
    "shifted_flow": lambda t: (1 - 3 * t / (1 + 2 * t), 3 * t / (1 + 2 * t)),
    "variance_preserving": vp,
    # EDM's grid
    "variance_exploding": lambda t: (1.0, (0.03 ** (1 / 7) * (1 - t) + 20 ** (1 / 7) * t) ** 7),
}


def marginal(pair):
    """Mean and variance (d,) of the noised data."""
    alpha, sigma = pair
    return alpha * GAUSSIAN.means[0], alpha**2 * GAUSSIAN.variances[0] + sigma**2


def chain_law(grid, steps, eta):
    """Mean and variance (d,) at the last level of the grid, started from the exact law."""
    data = GAUSSIAN
    mean, variance = marginal(grid(1.0))
    pairs = [grid(1 - i / steps) for i in range(steps + 1)]
    probe = torch.stack([torch.zeros(data.shape), torch.ones(data.shape)]).double()
    for here, after in pairwise(pairs):
        kernel = sde_step(probe, data.x0(probe, *here), Gaussian(*here, *after), eta)
        shift, slope = kernel.mean[0].flatten(), kernel.mean.diff(dim=0).flatten()
        mean, variance = slope * mean + shift, slope**2 * variance + kernel.std**2
    return mean, variance


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_error_falls_as_one_over_the_number_of_steps(grid, eta):
    errors = []
    exact = marginal(GRIDS[grid](0.0))
    for steps in (100, 200, 400):
        mean, variance = chain_law(GRIDS[grid], steps, eta)
        torch.testing.assert_close(mean, exact[0], rtol=0, atol=0.01)
        errors.append(float((variance / exact[1] - 1).abs().max()))
    assert errors[2] < 0.06
    assert errors[2] < 0.6 * errors[1] < 0.6**2 * errors[0]


@pytest.mark.parametrize("grid", GRIDS)
def test_with_eta_1_the_step_is_bayes_rule(grid):
    x, x0 = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    for start in (1.0, 0.6, 0.1):
        here, after = GRIDS[grid](start), GRIDS[grid](start - 0.1) if start > 0.1 else (1.0, 0.0)
        a, b, variance = posterior(here, after)
        kernel = sde_step(x, x0, Gaussian(*here, *after))
        torch.testing.assert_close(kernel.mean, a * x + b * x0)
        assert kernel.std**2 == pytest.approx(variance, abs=1e-12)

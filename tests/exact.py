"""Closed forms, the laws of discretised chains, and the test that compares a mean with one.

The law of a chain is found without sampling: through the real scheduler where it takes the step,
by Bayes' rule where fkdiff does. The data law itself would be missed by discretisation alone.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from unittest.mock import patch

import torch
from torch import Tensor

from tests.analytic import AnalyticPipeline, levels

__all__ = [
    "Tilted",
    "affine_law",
    "assert_mean",
    "chain_measure",
    "grid_law",
    "posterior",
    "replaced_law",
    "scripted_noise",
    "tilted_gaussian",
    "tilted_points",
]


def assert_mean(samples: Tensor, exact: Tensor | float, z: float = 4.5) -> None:
    """Compare the mean of independent samples (R, *) with its exact value (*).

    The tolerance comes from the samples themselves: `z` standard errors of the mean, component by
    component. At 4.5 a true statement fails in 7 of a million components.
    """
    samples = torch.as_tensor(samples, dtype=torch.float64)
    exact = torch.as_tensor(exact, dtype=torch.float64)
    mean = samples.mean(0)
    error = samples.std(0) / len(samples) ** 0.5
    # Without spread, what is left is rounding.
    score = (mean - exact).abs() / (error + 1e-12 * exact.abs() + 1e-300)
    assert bool((score < z).all()), (
        f"|z| = {score.max():.2f} for {len(samples)} samples: mean {mean}, exact {exact}"
    )


def chain_measure(initial: Tensor, kernel: Tensor, log_potentials: Tensor) -> Tensor:
    r"""Unnormalised final law of a weighted Markov chain on S states.

    $\gamma_T(x_T) = \sum_{x_0..x_{T-1}} \mu(x_0) \prod_t M(x_{t-1}, x_t) G_t(x_t)$: its sum is
    the normaliser Z.

    Arguments:
        initial: Law of the state before the first transition, shape (S,).
        kernel: Transition probabilities, shape (S, S), rows sum to 1.
        log_potentials: Log-potentials after each transition, shape (T, S).
    """
    measure = initial
    for log_g in log_potentials:
        measure = (measure @ kernel) * log_g.exp()
    return measure


@dataclass(frozen=True)
class Tilted:
    """Moments of a law times exp(log_g), coordinate by coordinate.

    Arguments:
        log_z: Log-normaliser, a number.
        mean: Shape (d,).
        variance: Shape (d,).
    """

    log_z: float
    mean: Tensor
    variance: Tensor


def tilted_gaussian(mean: Tensor, variance: Tensor, slope: float, curve: float) -> Tilted:
    r"""$N(m, v)$ in each coordinate times $\exp(\sum_i s x_i - c x_i^2 / 2)$, in closed form."""
    precision = 1 / variance + curve
    peak = (mean / variance + slope) / precision
    log_z = (peak**2 * precision - mean**2 / variance - (precision * variance).log()) / 2
    return Tilted(float(log_z.sum()), peak, 1 / precision)


def tilted_points(points: Tensor, mass: Tensor, log_g: Tensor) -> Tilted:
    """Atoms (S,) of given mass (S,) times exp(log_g), by summation."""
    log_w = mass.log() + log_g
    weights = log_w.softmax(0)
    mean = (weights * points).sum()
    variance = (weights * (points - mean) ** 2).sum()
    return Tilted(float(log_w.logsumexp(0)), mean[None], variance[None])


def posterior(here: tuple[float, float], after: tuple[float, float]) -> tuple[float, float, float]:
    r"""Law of x' given x and x_0 by Bayes' rule: $N(a x + b x_0, v)$ as (a, b, v).

    Prior $x' \sim N(\alpha' x_0, \sigma'^2)$; likelihood $x \sim N(r x', \sigma^2 - r^2
    \sigma'^2)$ with $r = \alpha / \alpha'$, the forward process.
    """
    (alpha, sigma), (alpha_next, sigma_next) = here, after
    ratio = alpha / alpha_next
    forward = sigma**2 - (ratio * sigma_next) ** 2
    share = forward / sigma**2
    return ratio * (sigma_next / sigma) ** 2, alpha_next * share, sigma_next**2 * share


@contextmanager
def scripted_noise(scheduler, noise: Callable[[tuple[int, ...]], Tensor]) -> Iterator[None]:
    """Let a real scheduler draw `noise(shape)` in place of random numbers."""
    module = sys.modules[type(scheduler).__module__]
    with patch.object(module, "randn_tensor", lambda shape, **_: noise(tuple(shape))):
        yield


def affine_law(pipe: AnalyticPipeline, steps: int, eta: float) -> tuple[Tensor, Tensor]:
    """Mean and variance (d,) of a chain on Gaussian data, for any solver with any memory.

    The sample is an affine map of the starting noise and of each step's noise. One run reads it
    off: row 0 gets no noise, row 1 a unit start, row j + 2 a unit draw j.
    """
    start = torch.zeros(steps + 2, *pipe.unet.data.shape, dtype=torch.float64)
    start[1] = 1
    draws = []

    def designed(shape):
        draws.append(torch.zeros(shape, dtype=torch.float64))
        draws[-1][len(draws) + 1] = 1
        return draws[-1]

    with scripted_noise(pipe.scheduler, designed):
        rows = [""] * len(start)
        out = pipe(rows, num_inference_steps=steps, latents=start, eta=eta).images.flatten(1)
    return out[0], (out[1:] - out[0]).square().sum(0)


def replaced_law(pipe: AnalyticPipeline, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (d,) on Gaussian data where each step draws from `posterior`."""
    pipe.scheduler.set_timesteps(steps)
    data = pipe.unet.data
    origin = torch.zeros(1, *data.shape, dtype=torch.float64)
    mean = origin.flatten()
    variance = mean + pipe.start_sd**2
    for here, after in pairwise(levels(pipe.scheduler)):
        a, b, noise = posterior(here, after)
        shift = data.x0(origin, *here).flatten()
        slope = a + b * (data.x0(origin + 1, *here).flatten() - shift)
        mean, variance = slope * mean + b * shift, slope**2 * variance + noise
    return mean, variance


def grid_law(
    pipe: AnalyticPipeline, steps: int, eta: float = 0.0, replaced: bool = False, cells: int = 900
) -> tuple[Tensor, Tensor]:
    """Atoms and masses (S,) of a Markov chain's final law on one-dimensional data.

    The law is carried from grid to grid by the chain's own kernels: the real scheduler's, probed
    with no noise and with unit noise, or `posterior` where fkdiff replaces the step.
    """
    pipe.scheduler.set_timesteps(steps)
    origin = torch.zeros(1, dtype=torch.float64)
    x, mass = _spread(origin, origin + 1, pipe.start_sd, cells)
    for i in range(steps):
        mean, std = _replaced_kernel(pipe, x, i) if replaced else _probed_kernel(pipe, x, i, eta)
        x, mass = (mean, mass) if std == 0 else _spread(mean, mass, std, cells)
    return x, mass


def _replaced_kernel(pipe: AnalyticPipeline, x: Tensor, i: int) -> tuple[Tensor, float]:
    here, after = levels(pipe.scheduler)[i : i + 2]
    a, b, variance = posterior(here, after)
    x0 = pipe.unet.data.x0(x[:, None, None, None], *here).flatten()
    return a * x + b * x0, variance**0.5


def _probed_kernel(pipe: AnalyticPipeline, x: Tensor, i: int, eta: float) -> tuple[Tensor, float]:
    moved = []
    for noise in (torch.zeros, torch.ones):
        probe = AnalyticPipeline(pipe.unet, copy.deepcopy(pipe.scheduler))
        with scripted_noise(probe.scheduler, partial(noise, dtype=torch.float64)):
            moved.append(probe.move(x[:, None, None, None], i, eta=eta).flatten())
    return moved[0], float((moved[1] - moved[0]).mean())


def _spread(means: Tensor, mass: Tensor, std: float, cells: int) -> tuple[Tensor, Tensor]:
    """Atoms blurred by N(0, std^2), as exact masses of the cells of a new grid."""
    live = mass > 1e-16
    means, mass = means[live], mass[live]
    low, high = float(means.min()) - 8 * std, float(means.max()) + 8 * std
    edges = torch.linspace(low, high, cells + 1, dtype=torch.float64)
    below = torch.special.ndtr((edges - means[:, None]) / std)
    return (edges[1:] + edges[:-1]) / 2, mass @ below.diff(dim=1)


def z_of_means(a: Tensor, b: Tensor) -> float:
    """Difference of the means of two independent samples over its standard error."""
    a, b = a.double().flatten(), b.double().flatten()
    return float((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt())

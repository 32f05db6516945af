"""Greedy potentials are told where the last step has too much to repair; log Z in closed form."""

import math
import warnings

import pytest
import torch

from fkdiff import Grid, Resample, Tilt, as_reward, sample
from fkdiff.processes import sde_step
from fkdiff.terms import RepairWarning

STEPS, PROMPTS, K = 25, 400, 64
FIRST = as_reward(lambda x: x.flatten().double(), name="first", inputs="latents")


def score(x, alpha, sigma):
    """Of a standard normal law."""
    return -x / (alpha**2 + sigma**2)


def exact_log_z():
    """The chain is linear, its end N(0, v), and E exp(x) = exp(v / 2)."""
    path = Grid.vp(STEPS, 5.0, "score")
    one, variance = torch.ones(1, 1, dtype=torch.float64), path.levels[0][1] ** 2
    for step in path.transitions():
        x0 = (one + step.sigma**2 * score(one, step.alpha, step.sigma)) / step.alpha
        kernel = sde_step(one, x0, step, eta=1.0)
        variance = float(kernel.mean) ** 2 * variance + float(kernel.std) ** 2
    return variance / 2


def drawn(potential):
    return sample(
        score,
        Grid.vp(STEPS, 5.0, "score"),
        Tilt(FIRST, 1.0, potential),
        shape=(1,),
        prompts=PROMPTS,
        particles=K,
        resample=Resample(window=(0, 1)),
        seed=1,
        dtype=torch.float64,
    )


def z_score(result):
    z = result.log_z.exp() / math.exp(exact_log_z())
    return float((z.mean() - 1) / (z.std() / len(z) ** 0.5))


def test_the_safe_potential_is_right_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RepairWarning)
        result = drawn("difference")
    assert abs(z_score(result)) < 4.5 and result.repair is None
    assert "repair" not in repr(result)


@pytest.mark.parametrize("potential", ["max", "sum", "current"])
def test_a_greedy_potential_that_is_off_warns_with_the_number(potential):
    with pytest.warns(RepairWarning, match=rf"of {K} particles.*potential=\"difference\""):
        result = drawn(potential)
    assert abs(z_score(result)) > 4.5
    assert (
        result.repair is not None
        and result.repair.shape == (PROMPTS,)
        and float(result.repair.median()) < K / 10
    )
    assert f"repair ESS {float(result.repair.min()):.1f}" in repr(result)
    part = result.split()[3].repair
    assert part is not None and torch.equal(part, result.repair[3:4])


def test_a_greedy_potential_with_little_to_repair_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RepairWarning)
        result = sample(
            score, Grid.vp(STEPS, 5.0, "score"), Tilt(FIRST, 0.02, "max"), shape=(1,), prompts=50,
            particles=K, resample=Resample(window=(0, 1)), seed=1,
        )  # fmt: skip
    assert result.repair is not None and float(result.repair.min()) > K / 2

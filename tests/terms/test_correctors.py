"""Corrected pools reach exp(h) prod q_j^b_j, on every kind of path, with the right normaliser.

Where the law of the discretised chain is known without sampling, nothing here is random: what is
left is the discretisation error, which must halve with the steps and vanish when extrapolated.
`sample` is then held to the law of the discretised chain itself, with few steps and particles.
"""

import dataclasses
import math
import zlib

import pytest
import torch

from fkdiff import Anneal, Correct, Grid, Product, Resample, Tilt, as_reward, sample
from fkdiff.processes import Gaussian, sde_step
from tests.corrected import (
    KINDS,
    Q1,
    Q2,
    Normal,
    backward,
    gaussian_log_z,
    grids,
    line,
    moments,
    pool_at,
    product_log_z,
    quadrature,
)
from tests.exact import assert_mean

# Q2^2 / Q1 has a far mode that no run finds; divided by a wider law it has none.
BROAD = line([0.5, 0.5], [-1.8, 1.8], [1.6, 1.7])
CFG = [(-1.0, BROAD), (2.0, Q2)]
CFG_ANNEALED = [(-0.75, Q1), (2.25, Q2)]
PRODUCT = [(1.0, Q1), (1.0, Q2)]


def no_tilt(x):
    return torch.zeros_like(x)


def wave(x):
    return 0.8 * torch.sin(2 * x) + 0.4 * x


# Corrector, pool, tilt, and the finer number of steps: strong annealing needs more.
CASES = {
    "anneal_2.5": (Correct(), [(2.5, Q1)], no_tilt, 200),
    "anneal_2.5_tempered": (Correct(zeta="tempered"), [(2.5, Q1)], no_tilt, 200),
    "anneal_0.5": (Correct(), [(0.5, Q1)], no_tilt, 120),
    "anneal_0.5_tempered": (Correct(zeta="tempered"), [(0.5, Q1)], no_tilt, 120),
    "anneal_0.5_nocontrol": (Correct(control=False), [(0.5, Q1)], no_tilt, 120),
    "cfg": (Correct(), CFG, no_tilt, 120),
    "cfg_quiet": (Correct(zeta=0.6), CFG, no_tilt, 120),
    "average": (Correct(), [(0.4, Q1), (0.6, Q2)], no_tilt, 120),
    "product": (Correct(), PRODUCT, no_tilt, 120),
    "product_annealed": (
        Correct(mean=0.5, variance=4.0),
        [(2.0, Q1), (2.0, Q2)],
        no_tilt,
        200,
    ),
    "cfg_annealed": (Correct(), CFG_ANNEALED, no_tilt, 120),
    "tilt": (Correct(), [(1.0, Q1)], wave, 120),
    "product_tilt": (Correct(), PRODUCT, wave, 120),
}


def errors(move, pool, tilt, kind, steps, **settings):
    """Largest error of the normalised moments at half the steps, at all, and extrapolated."""
    exact = quadrature(pool, tilt)
    half, full = (
        backward(move, grids(n)[kind], pool, tilt, **settings) for n in (steps // 2, steps)
    )
    return [
        float((found - exact).abs().max() / exact[0]) for found in (half, full, 2 * full - half)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_mixtures_reach_the_product_and_its_normaliser(case, kind):
    corrector, pool, tilt, steps = CASES[case]
    half, full, limit = errors(corrector.move, pool, tilt, kind, steps)
    assert 1.6 < half / full < 2.6
    assert limit < 0.04


def flipped(move):
    """The corrector with the sign of its increments turned."""

    def broken(x, path, pool, before):
        made = move(x, path, pool, before)
        return dataclasses.replace(made, d=-made.d)

    return broken


def summed(move):
    """Increments of guidance and annealing added as if they were separate correctors'."""

    def broken(x, path, pool, before):
        (low, uncond), (high, cond) = pool
        beta = low + high
        guided = [(low / beta, uncond), (high / beta, cond)]
        mixed = sum(b * e for b, e in guided)
        made = move(x, path, [(beta, mixed)], before)
        return dataclasses.replace(made, d=made.d + move(x, path, guided, before or path).d)

    return broken


@pytest.mark.parametrize("kind", KINDS)
def test_broken_correctors_are_seen(kind):
    """A wrong sign, added increments, and a start without its scaling."""
    move, plain, half = Correct().move, Correct(control=False).move, [(0.5, Q1)]
    assert errors(flipped(move), CFG, no_tilt, kind, 120)[-1] > 0.2
    assert errors(summed(move), CFG_ANNEALED, no_tilt, kind, 120)[-1] > 0.2
    # Drift control forgets where a run began; without it the start must be right.
    assert errors(plain, half, no_tilt, kind, 120, start=1.0)[-1] > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("corrector", "pool"),
    [
        (Correct(), PRODUCT),
        (Correct(variance=4.0), [(2.5, Q1)]),
        (Correct(variance=4.0), [*PRODUCT, (1.0, BROAD)]),
    ],
    ids=["product", "anneal_2.5", "three"],
)
def test_the_normaliser_is_within_a_hundredth_at_400_steps(corrector, pool, kind):
    found = backward(corrector.move, grids(400)[kind], pool, no_tilt)
    assert float(found[0] / quadrature(pool, no_tilt)[0]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_the_controls_mean_and_variance_are_moved_exactly(kind):
    """At any number of steps, but for the last, which leaves no noise."""
    law, none = Normal([0.7], [[2.0]]), torch.zeros(1, 1, dtype=torch.float64)
    corrector = Correct(mean=0.7, variance=2.0)
    found = gaussian_log_z(corrector.move, grids(20)[kind], [(2.5, law)], none)
    assert float(found - product_log_z([(2.5, law)], none)) == pytest.approx(0, abs=1e-3)


# Correlated Gaussians in two dimensions, all rows in closed form.

N1 = Normal([0.5, -0.4], [[1.0, 0.5], [0.5, 0.8]])
N2 = Normal([-0.3, 0.6], [[0.6, -0.2], [-0.2, 0.5]])
WIDE = Normal([0.0, 0.2], [[1.6, 0.3], [0.3, 1.4]])
PLANES = {
    "anneal_2.5": (Correct(), [(2.5, N1)]),
    "anneal_2.5_tempered": (Correct(zeta="tempered"), [(2.5, N1)]),
    "anneal_0.5": (Correct(), [(0.5, N1)]),
    "anneal_0.5_tempered": (Correct(zeta="tempered"), [(0.5, N1)]),
    "cfg": (Correct(), [(-1.0, WIDE), (2.0, N2)]),
    "average": (Correct(), [(0.4, N1), (0.6, N2)]),
    "product": (Correct(), [(1.0, N1), (1.0, N2)]),
    "product_annealed": (Correct(), [(2.0, N1), (2.0, N2)]),
    "cfg_annealed": (Correct(), [(-0.75, WIDE), (2.25, N2)]),
    "own_control": (
        Correct(mean=torch.tensor([0.2, -0.1]), variance=torch.tensor([0.7, 1.3])),
        [(1.0, N1), (1.0, N2)],
    ),
}
# The generating function of the law: with these tilts its mean and covariance are fixed.
SLOPES = torch.tensor(
    [[0.0, 0.0], [0.6, 0.0], [0.0, 0.6], [0.5, 0.5], [-0.7, 0.2]], dtype=torch.float64
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", PLANES)
def test_correlated_gaussians_reach_the_product_tilted_or_not(case, kind):
    corrector, pool = PLANES[case]
    exact = product_log_z(pool, SLOPES)
    half, full = (gaussian_log_z(corrector.move, grids(n)[kind], pool, SLOPES) for n in (60, 120))
    assert (full - exact).abs().max() < 0.35
    assert (2 * full - half - exact).abs().max() < 0.08


# `sample` simulates that chain: unbiased for few particles and steps, resampled or not.

STEPS = 16
WIDE_WAVE = as_reward(lambda x: wave(x.flatten()), name="wave", inputs="latents")
RATIO = Product(Q2.score, 0.5, against="uncond")
RUNS = {
    "cfg": (CFG, {"uncond": BROAD.score}, Q2, 2.0, (Correct(),), no_tilt),
    "ratio": (CFG, {"uncond": BROAD.score}, Q2, 1.5, (RATIO, Correct()), no_tilt),
    "annealed": ([(0.5, Q1)], {}, Q1, 1.0, (Anneal(0.5), Correct(zeta="tempered")), no_tilt),
    "product": (PRODUCT, {"other": Q2.score}, Q1, 1.0, (Correct(), Product("other")), no_tilt),
    "tilt": (CFG, {"uncond": BROAD.score}, Q2, 2.0, (Tilt(WIDE_WAVE), Correct()), wave),
}  # fmt: skip


@pytest.fixture
def seed(request):
    """Another noise for each test, so that their z-scores are not one event."""
    return zlib.crc32(request.node.name.encode())


def few_steps(kind):
    return {
        "vp": Grid.vp(STEPS, 5.0, "score"),
        "ve": Grid.ve(STEPS, 20.0, 0.05, prediction="score"),
    }[kind]


@pytest.mark.filterwarnings("ignore:Correct")
@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("case", RUNS)
def test_sample_is_unbiased_for_the_discretised_chain(case, kind, seed):
    pool, others, cond, guidance, terms, tilt = RUNS[case]
    result = sample(
        {"cond": cond.score, **others},
        few_steps(kind),
        *terms,
        shape=(1,),
        prompts=400,
        guidance=guidance,
        particles=6,
        resample=Resample(ess=0.9, window=(0, 1)),
        seed=seed,
        dtype=torch.float64,
    )
    assert any(rows is not None for rows in result.rows)
    corrector = next(term for term in terms if isinstance(term, Correct))
    exact = backward(corrector.move, few_steps(kind), pool, tilt)
    found = result.log_w.exp() * moments(result.latents.flatten()).reshape(-1, 400, 6)
    assert_mean(found.mean(2).T / exact[0], exact / exact[0])


@pytest.mark.parametrize("zeta", [0.4, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_expert_takes_the_sde_step_and_no_weight(kind, zeta):
    path = list(grids(10)[kind].transitions())[4]
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    ((_, epsilon),) = pool = pool_at(x, path, [(1.0, Q1)])
    made = Correct(zeta=zeta).move(x, path, pool, path)
    step = sde_step(x, (x - path.sigma * epsilon) / path.alpha, path, zeta)
    assert torch.allclose(made.kernel.mean, step.mean)
    assert made.kernel.std == pytest.approx(step.std)
    assert made.d.abs().max() < 1e-12


def test_noise_beyond_what_a_step_carries_is_as_much_as_it_can():
    path = Gaussian(0.6, 0.8, 0.8, 0.6)
    x = torch.ones(1, 1, dtype=torch.float64)
    assert Correct(zeta=9.0).move(x, path, [(1.0, x)], path).kernel.std == 0.6


def test_the_last_step_changes_units_alone():
    """log Z is stated for x / alpha: a density's power changes by alpha^(d (B - 1))."""
    path = Gaussian(0.9, math.sqrt(0.19), 1.0, 0.0)
    x = torch.ones(2, 3, dtype=torch.float64)
    still = Gaussian(path.alpha, path.sigma, path.alpha, path.sigma)
    made = Correct().move(x, path, [(2.5, x)], still)
    assert torch.allclose(made.d, torch.tensor(4.5 * math.log(0.9), dtype=torch.float64))
    assert made.kernel.std == 0

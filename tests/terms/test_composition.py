"""CFG, RL guidance, annealing and a reward in one run have one target, whatever the order."""

import dataclasses
import functools
import itertools

import pytest
import torch

from fkdiff import (
    Anneal,
    Correct,
    Grid,
    Product,
    Resample,
    RLGuidance,
    Tilt,
    as_reward,
    sample,
)
from fkdiff.sampling import energy_score
from tests.corrected import Mixture
from tests.exact import assert_mean

G, W, BETA = 2.2, 1.5, 2.0


def plane(weights, means, covariances):
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, covariances)))


WIDE = [[2.2, 0.5], [0.5, 1.8]]
UNCOND = plane([0.5, 0.5], [[-1.0, 0.3], [1.2, -0.4]], [WIDE, WIDE])
COND = plane([0.6, 0.4], [[-1.2, -0.8], [1.0, 1.2]], [[[0.8, 0.3], [0.3, 0.6]]] * 2)
TUNED_UNCOND = plane([0.4, 0.6], [[-0.8, 0.2], [1.3, 0.2]], [WIDE, WIDE])
TUNED_COND = plane([0.35, 0.65], [[-1.0, -0.7], [1.2, 1.3]], [[[0.7, 0.2], [0.2, 0.6]]] * 2)
DENOISERS = {
    "cond": COND.score,
    "uncond": UNCOND.score,
    "tuned/cond": TUNED_COND.score,
    "tuned/uncond": TUNED_UNCOND.score,
}
POOL = [
    ((1 - G) * (1 - W), UNCOND),
    ((1 - G) * W, TUNED_UNCOND),
    (G * (1 - W), COND),
    (G * W, TUNED_COND),
]


def wish(x):
    return 0.6 * torch.sin(1.5 * x[:, 0]) - 0.4 * x[:, 1]


REWARD = as_reward(lambda x: wish(x.double()), name="wish", inputs="latents")
TERMS = (RLGuidance("tuned", W), Anneal(BETA), Tilt(REWARD))


def functions(x):
    a, b = x[..., 0], x[..., 1]
    return torch.stack([torch.tanh(a), torch.tanh(b), torch.tanh(a * b), torch.cos(a)], -1)


@functools.cache
def exact():
    """Means of the functions under the product, by quadrature, and log Z."""
    line = torch.linspace(-9, 9, 451, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    log_p = BETA * sum(b * law.log_density(x) for b, law in POOL) + wish(x)
    log_z = log_p.logsumexp(0)
    mean = ((log_p - log_z).exp()[:, None] * functions(x)).sum(0)
    return mean, float(log_z + 2 * (line[1] - line[0]).log())


def run(*terms, prompts=10, particles=400, steps=150, **settings):
    settings = {"seed": 5, "resample": Resample(window=(0, 1))} | settings
    return sample(
        DENOISERS,
        Grid.vp(steps, 7.0, "score"),
        *terms,
        shape=(2,),
        prompts=prompts,
        particles=particles,
        guidance=G,
        dtype=torch.float64,
        **settings,
    )


def estimates(result):
    """Weighted means of the functions, and Z-hat over Z, of each prompt."""
    _, log_z = exact()
    share = (result.log_z - log_z).exp()[:, None]
    return torch.cat([result.mean(functions(result.latents)), share], 1)


def expected():
    return torch.cat([exact()[0], torch.ones(1, dtype=torch.float64)])


def test_one_run_reaches_the_common_target():
    assert_mean(estimates(run(*TERMS, Correct())), expected())


class Flipped(Correct):
    def move(self, x, path, pool, first):
        made = super().move(x, path, pool, first)
        return dataclasses.replace(made, d=-made.d)


class Summed(Correct):
    """Guidance, RL guidance and annealing corrected apart, and their increments added."""

    def move(self, x, path, pool, first):
        made = super().move(x, path, pool, first)
        clock = 2 * torch.tensor(path.alpha_next / path.alpha).log()
        if path.sigma_next == 0:
            return made
        clock += 2 * torch.tensor(path.sigma / path.sigma_next).log()
        flat = [(b / BETA, e) for b, e in pool]
        mixed = sum(b * e for b, e in flat)
        spread = sum(b * e.square().sum(1) for b, e in flat) - mixed.square().sum(1)
        return dataclasses.replace(made, d=made.d + (BETA - 1) / 2 * spread * clock)


@pytest.mark.parametrize("broken", [Flipped(), Summed(), None])
def test_broken_compositions_are_seen(broken):
    result = run(*TERMS, *([broken] if broken else []))
    with pytest.raises(AssertionError, match="z"):
        assert_mean(estimates(result), expected())


def test_the_order_of_the_terms_changes_no_bit():
    terms = (*TERMS, Product(COND.score, 0.3, against="uncond"), Correct())
    base = run(*terms, prompts=1, particles=5, steps=60)
    for order in itertools.islice(itertools.permutations(terms), 7, 120, 40):
        other = run(*order, prompts=1, particles=5, steps=60)
        assert torch.equal(base.latents, other.latents)
        assert torch.equal(base.log_w, other.log_w)


def test_the_pool_is_flat_with_four_experts():
    seen = []

    class Watch(Correct):
        def move(self, x, path, pool, first):
            seen.append([b for b, _ in pool])
            return super().move(x, path, pool, first)

    run(RLGuidance("tuned", W), Watch(), prompts=1, particles=2, steps=60)
    assert seen[0] == pytest.approx([b for b, _ in POOL])


def test_weights_vary_at_every_step_and_the_report_knows():
    result = run(*TERMS, Correct(), prompts=2, particles=8, steps=60)
    variances = torch.stack([entry.variance for entry in result.trace])
    assert variances.shape == (60, 2)
    assert (variances[:-1] > 0).all()
    half = run(*TERMS, Correct(exponent=0.5), prompts=2, particles=8, steps=60)
    assert torch.allclose(half.trace[0].variance, variances[0] / 4)
    assert half.target.startswith("heuristic: weights to the power 0.5")
    assert "prod q_j^b_j" in result.target and "wish" in result.target
    assert "uncorrected" in run(*TERMS, prompts=1, particles=2, steps=60).target


def test_a_run_without_tilt_selects_by_weight():
    assert run(Correct(), prompts=1, particles=3, steps=60).settings["select"] == "sample"
    assert run(Correct(), TERMS[2], prompts=1, particles=3, steps=60).settings["select"] == "best"


def test_scores_of_energies():
    result = energy_score(lambda x, alpha, sigma: COND.log_density(x, alpha, sigma))
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(result(x, 0.6, 0.8), COND.score(x, 0.6, 0.8))


def test_few_steps_warn():
    with pytest.warns(UserWarning, match="20 steps; below 50"):
        run(Correct(), prompts=1, particles=2, steps=20)


@pytest.mark.parametrize(
    ("terms", "settings", "message"),
    [
        (lambda: [Correct(), Correct()], {}, "one Correct, got 2"),
        (lambda: [RLGuidance("a"), RLGuidance("b")], {}, "give it a mapping"),
        (lambda: [Correct()], {"stochastic": False}, "whose moves are stochastic"),
        (lambda: [Correct(), Product("x", -1.5)], {}, "positive sum, got -0.5"),
        (lambda: [Correct(), RLGuidance("x", lambda t: t)], {}, "constant in time with Correct"),
        (lambda: [Correct(), RLGuidance("x", 2, interval=(0.2, 1))], {}, "constant in time"),
        (lambda: [Anneal(lambda t: t)], {}, "beta must be constant in time"),
        (lambda: [Anneal(0.0)], {}, "beta must be positive"),
        (lambda: [Product("x", float("nan"))], {}, "b must be finite"),
        (lambda: [RLGuidance("x", float("inf"))], {}, "w must be finite"),
        (lambda: [RLGuidance({"x": float("nan")})], {}, "weight of x must be finite"),
        (lambda: [RLGuidance("x", 1, interval=(0.5, 0.2))], {}, "interval must be two shares"),
        (lambda: [Correct(zeta=0.0)], {}, "zeta must be positive"),
        (lambda: [Correct(exponent=1.5)], {}, "exponent must be in"),
        (lambda: [Correct(variance=0.0)], {}, "variance must be positive"),
        (lambda: [Correct(), RLGuidance("missing")], {}, "denoisers must hold 'missing'"),
        (lambda: [Product(COND.score, 0.5, against="none")], {}, "against must be one of"),
        (lambda: [TERMS[2]], {"stochastic": False}, "copies would stay identical"),
    ],
)
def test_what_has_no_target_is_refused(terms, settings, message):
    with pytest.raises(ValueError, match=message):
        run(*terms(), prompts=1, particles=2, steps=60, **settings)

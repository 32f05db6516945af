"""Steered masked and uniform chains against laws with all outcomes enumerated."""

import math
from contextlib import nullcontext

import pytest
import torch
from scipy.stats import chi2

from fkdiff import (
    Anneal,
    Correct,
    DiscreteCorrect,
    MaskedPath,
    Product,
    Resample,
    Tilt,
    UniformPath,
    as_reward,
    sample_tokens,
)
from fkdiff.bench.discrete_correctors import CASES, Q1
from fkdiff.bench.token_laws import TokenLaw
from fkdiff.processes.tokens import TokenStep
from fkdiff.terms import RepairWarning
from fkdiff.terms.discrete_correctors import pool_law
from fkdiff.terms.pool import Expert

LAW = Q1
ALWAYS = Resample(ess=0.95, window=(0.0, 1.0))
R = 0.9 * torch.randn(81, generator=torch.Generator().manual_seed(7)).double()
REWARD = as_reward(lambda x: R[LAW.index(x)], name="r", inputs="tokens")


def template(rows, length=4):
    return torch.full((rows, length), -1)


def chain_law(path):
    """Law of the chain that is run: its 256 states, multiplied through."""
    law = torch.zeros(256, dtype=torch.float64)
    law[-1] = 1.0
    masked = LAW.states == 3
    for step in path.transitions():
        again = path.remask * min(1.0, (1 - step.alpha_next) / max(step.alpha, 1e-300))
        shown = (step.alpha_next - (1 - again) * step.alpha) / (1 - step.alpha)
        p = torch.cat([shown * LAW.posteriors, torch.full((256, 4, 1), 1 - shown)], -1)
        stay = torch.nn.functional.one_hot(LAW.states, 4).double() * (1 - again)
        stay[..., 3] += again
        p = torch.where(masked[..., None], p, stay).double()
        kernel = torch.ones(256, 256, dtype=torch.float64)
        for i in range(4):
            kernel *= p[:, i][:, LAW.states[:, i]]
        law = law @ kernel
    return law[(~masked).all(1)]


def masses(result):
    """Unnormalised mass of each outcome in each cloud; its mean is the target, exactly."""
    weights = result.log_w.exp() / result.log_w.shape[1]
    empty = torch.zeros(len(weights), 81, dtype=torch.float64)
    return empty.scatter_add(1, LAW.index(result.latents), weights)


def p_value(found, target):
    """Chi-square of the mean masses: the 30 likeliest outcomes, and all the others together.

    What fewer than 10 clouds have seen has no covariance worth the name, and is among the others.
    """
    order = target.argsort(descending=True)[:30]
    order = order[(found > 0).sum(0)[order] >= 10]

    def merged(m):
        return torch.cat([m[..., order], (m.sum(-1) - m[..., order].sum(-1))[..., None]], -1)

    m, t = merged(found), merged(target)
    difference, spread = m.mean(0) - t, torch.cov(m.T) / len(m)
    return chi2.sf(float(difference @ torch.linalg.solve(spread, difference)), len(t))


def z_of_log_z(result, total):
    z = result.log_z.exp()
    return float((z.mean() - total) / (z.std() / len(z) ** 0.5))


@pytest.mark.parametrize(
    ("path", "tilt"),
    [
        (MaskedPath(4, mask=3), {}),
        (MaskedPath(4, mask=3), {"draws": 4, "potential": "max"}),
        (MaskedPath(5, "cosine", mask=3, remask=0.6), {"draws": 4}),
    ],
    ids=["plain", "max", "remasked"],
)
def test_steered_law_is_the_chains_tilted_law(path, tilt):
    with pytest.warns(RepairWarning) if tilt.get("potential") == "max" else nullcontext():
        result = sample_tokens(
            LAW.denoiser, path, Tilt(REWARD, **tilt), template=template(800), particles=6,
            resample=ALWAYS, seed=1,
        )  # fmt: skip
    assert any(rows is not None for rows in result.rows)
    target = chain_law(path) * R.exp()
    assert p_value(masses(result), target) > 1e-5
    assert abs(z_of_log_z(result, target.sum())) < 4.5
    assert p_value(masses(result), chain_law(path)) < 1e-5  # the untilted law is told apart


def test_equal_draws_are_scored_once():
    result = sample_tokens(
        LAW.denoiser, MaskedPath(4, mask=3), Tilt(REWARD, draws=8), template=template(20),
        particles=8, resample=ALWAYS, seed=0,
    )  # fmt: skip
    looked_at = 4 - 1  # transitions with an intermediate reward, and the final one
    assert result.cost.reward_calls["r"] <= (looked_at + 1) * 81
    assert result.cost.denoiser_evaluations < 20 * 8 * 4 / 2  # shared states are evaluated once


def test_confidence_order_and_given_tokens():
    given = torch.tensor([[-1, 2, -1, 0]])
    for path in (MaskedPath(3, mask=3, order="confidence"), MaskedPath(4, mask=3, remask=1.0)):
        result = sample_tokens(LAW.denoiser, path, template=given, particles=16, seed=0)
        tokens = result.latents[0]
        assert (tokens[:, 1] == 2).all() and (tokens[:, 3] == 0).all() and (tokens < 3).all()


def uniform_denoiser(tokens, alpha):
    """Exact posterior of one token of the law (.6, .3, .1) under uniform corruption."""
    prior = torch.tensor([0.6, 0.3, 0.1]).double()
    noise = alpha * torch.eye(3).double() + (1 - alpha) / 3
    return (prior * noise[:, tokens].movedim(0, -1)).log()


def test_uniform_path_samples_its_law_and_is_steered():
    r = as_reward(lambda x: 2.0 * (x == 2).sum(1), name="twos", inputs="tokens")
    result = sample_tokens(
        uniform_denoiser, UniformPath(4), Tilt(r, draws=2), template=template(2000, 1),
        particles=6, resample=ALWAYS, seed=0,
    )  # fmt: skip
    weights = result.log_w.exp() / 6
    found = torch.stack([(weights * (result.latents[..., 0] == v)).sum(1) for v in range(3)], 1)
    target = torch.tensor([0.6, 0.3, 0.1 * math.exp(2)])
    z = (found.mean(0) - target) / (found.std(0) / len(found) ** 0.5)
    assert z.abs().max() < 4.5
    assert abs(float(found[:, 2].mean() - 0.1) / float(found[:, 2].std() / 1000**0.5)) > 10


@pytest.mark.parametrize("name", list(CASES))
def test_correctors_reach_the_product_at_any_number_of_steps(name):
    case, steps = CASES[name], 2 if "tilt" in name else 7
    result = sample_tokens(
        case.denoisers, MaskedPath(steps, mask=3), *case.all_terms, DiscreteCorrect(),
        template=template(600), guidance=case.guidance, particles=10, resample=ALWAYS, seed=2,
    )  # fmt: skip
    assert p_value(masses(result), case.target) > 1e-5
    assert abs(z_of_log_z(result, case.target.sum())) < 4.5


def test_what_one_expert_forbids_is_forbidden():
    """Also to a negative power, which would make the impossible certain."""
    free = torch.tensor([0.5, 0.3, 0.2]).double().log().expand(1, 1, 3)
    bans = torch.tensor([0.6, 0.4, 0.0]).double().log().expand(1, 1, 3)
    for b in (-0.5, 0.5, 2.0):
        for experts in ([("free", 1.0, free), ("bans", b, bans)], [("bans", b, bans)] * 2):
            law = pool_law([Expert(*expert) for expert in experts])
            assert law.p[0, 0, 2] == 0 and torch.isfinite(law.log_mass).all()
    law = pool_law([Expert("free", 1.0, free), Expert("bans", -0.5, bans)])
    exact = torch.tensor([0.5 / 0.6**0.5, 0.3 / 0.4**0.5, 0.0]).double()
    torch.testing.assert_close(law.p[0, 0], exact / exact.sum())
    torch.testing.assert_close(law.log_mass[0, 0], exact.sum().log())


@pytest.mark.parametrize("name", ["anneal_2", "cfg_1.5", "product"])
def test_without_correction_the_pool_is_another_law(name):
    case = CASES[name]
    result = sample_tokens(
        case.denoisers, MaskedPath(12, mask=3), *case.terms, template=template(600),
        guidance=case.guidance, particles=10, resample=ALWAYS, seed=2,
    )  # fmt: skip
    assert p_value(masses(result), case.target / case.target.sum()) < 1e-5


@pytest.mark.parametrize("name", ["anneal_2", "product"])
def test_the_published_rate_scale_is_worse(name):
    case = CASES[name]

    def spread(rate, clouds=200):
        result = sample_tokens(
            case.denoisers, MaskedPath(20, mask=3), *case.terms, DiscreteCorrect(rate),
            template=template(clouds), particles=10, resample=ALWAYS, seed=3,
        )  # fmt: skip
        z = result.log_z.exp()
        return float(z.std() / z.mean())

    assert spread("published") > 2 * spread("pilot")
    assert spread(1 / 3, clouds=1600) < 0.5  # heavy tails: .35 to .53 with 200


def test_plain_correct_stands_for_the_discrete_one():
    call = dict(template=template(1), particles=4, seed=0)
    a = sample_tokens(LAW.denoiser, MaskedPath(5, mask=3), Anneal(2.0), Correct(), **call)
    b = sample_tokens(LAW.denoiser, MaskedPath(5, mask=3), Anneal(2.0), DiscreteCorrect(), **call)
    assert torch.equal(a.log_w, b.log_w) and a.target == b.target
    assert "to the power 2" in a.target


def test_bits_do_not_depend_on_micro_batches():
    call = dict(template=template(3), particles=5, resample=ALWAYS, seed=4)
    for terms in ((Tilt(REWARD, draws=3),), (Product(TokenLaw(2).denoiser), DiscreteCorrect())):
        path = MaskedPath(5, mask=3)
        a = sample_tokens(LAW.denoiser, path, *terms, **call)
        b = sample_tokens(LAW.denoiser, path, *terms, micro_batch=2, **call)
        assert torch.equal(a.latents, b.latents) and torch.equal(a.log_w, b.log_w)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"template": torch.zeros(1, 0, dtype=torch.int64)}, "template must be int64"),
        ({"template": torch.tensor([[1, 2]])}, "a row with nothing to draw"),
        ({"guidance": 2.0}, "must hold 'uncond'"),
        ({"particles": 0}, "particles must be at least 1"),
        ({"terms": (Correct(zeta=0.5),)}, "belong to Gaussian paths"),
        ({"terms": (DiscreteCorrect(),), "path": UniformPath(3)}, "needs a masked path"),
        ({"terms": (Correct(), DiscreteCorrect())}, "one corrector"),
        ({"terms": (Product("cond", -2.0),)}, "positive sum"),
    ],
)
def test_bad_input_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        call = {"template": template(1), **change}
        terms, path = call.pop("terms", ()), call.pop("path", MaskedPath(3, mask=3))
        sample_tokens(LAW.denoiser, path, *terms, **call)


def test_remasking_keeps_the_marginals():
    """One position: shown with probability alpha after each step, whatever the remasking."""
    p = torch.ones(4000, 1, 1)
    for eta in (0.0, 0.5, 1.0):
        path = MaskedPath(3, mask=1, remask=eta)
        x = torch.ones(4000, 1, dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        for step in path.transitions():
            x = path.move(x, p, step, torch.rand(4000, 2, 1, generator=generator))
            share = float((x == 0).double().mean())
            assert abs(share - step.alpha_next) < 4.5 * (0.25 / 4000) ** 0.5
    assert TokenStep(0.25, 0.5).sigma == 0.75

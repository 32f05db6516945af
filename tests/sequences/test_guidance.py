"""Straight-through guidance and tilts on sequences, against enumeration."""

import pytest
import torch
from torch.nn.functional import one_hot

from fkdiff.processes.simplex import GumbelPath
from fkdiff.processes.streams import stream
from fkdiff.sequences.guidance import StraightThrough, straight_through
from fkdiff.sequences.loop import drawn_letters
from fkdiff.sequences.sampling import sample_sequences
from fkdiff.smc import Resample
from fkdiff.terms import Anneal, Tilt, as_reward
from tests.exact import assert_mean
from tests.sequences.toy import PATH, PRIOR, SEQUENCES, K, net, numbers, prize, prizes

REWARD = as_reward(prize, name="prize", inputs="simplex", differentiable=True)
MASK = torch.ones(1, 2, dtype=torch.bool)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def enumerated(logits, f):
    """E[f(h)], h drawn letter by letter, as a differentiable function of the logits (2, 3)."""
    p = logits.softmax(-1)
    weights = torch.stack([p[0, a] * p[1, b] for a, b in SEQUENCES])
    values = f(torch.stack([torch.eye(K)[list(s)] for s in SEQUENCES]))
    return (weights * values).sum()


def draws(f, logits, n=4000, seed=0):
    """Independent estimates of one draw each, shape (n, 2, 3)."""
    u = uniform(n, 1, 2, seed=seed)
    return straight_through(f, logits.expand(n, -1, -1), MASK.expand(n, -1), u)


def test_gradient_is_the_exact_one_where_each_letter_enters_linearly():
    logits = torch.tensor([[0.3, -0.4, 0.9], [-1.0, 0.5, 0.0]], requires_grad=True)
    (exact,) = torch.autograd.grad(enumerated(logits, prize), logits)
    assert_mean(draws(prize, logits.detach()), exact)


def test_gradient_is_the_straight_through_mean_for_any_function():
    def f(h):
        return prize(h).exp() + h[:, 0, 0].square() * h[:, 1, 1]

    logits = torch.tensor([[0.3, -0.4, 0.9], [-1.0, 0.5, 0.0]])
    p, mean = logits.softmax(-1), torch.zeros(2, 3)
    for a, b in SEQUENCES:
        h = torch.eye(K)[[a, b]][None].requires_grad_()
        (d,) = torch.autograd.grad(f(h).sum(), h)
        mean += p[0, a] * p[1, b] * p * (d[0] - (p * d[0]).sum(-1, keepdim=True))
    assert_mean(draws(f, logits), mean)
    with pytest.raises(AssertionError):  # it isn't the gradient of the mean
        wanted = logits.clone().requires_grad_()
        assert_mean(draws(f, logits), torch.autograd.grad(enumerated(wanted, f), wanted)[0])


def test_gradient_is_what_autograd_makes_of_the_straight_through_tokens():
    logits = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    u = uniform(4, 5, 2)
    p = (logits / 0.7).softmax(-1)
    tokens = (u[..., None] >= p.detach().cumsum(-1)[:, None]).sum(-1).clamp(max=2)
    hard = one_hot(tokens, 3).float()
    soft = hard + p[:, None] - p[:, None].detach()
    value = sum(prize(soft[:, m]).exp().sum() for m in range(5)) / 5
    (exact,) = torch.autograd.grad(value, logits)
    ours = straight_through(lambda h: prize(h).exp(), logits, MASK.expand(4, -1), u, 0.7)
    assert torch.allclose(ours, exact, atol=1e-6)
    assert float(ours.detach().sum(-1).abs().max()) < 1e-6


def test_padding_is_neither_shown_nor_pushed():
    mask = torch.tensor([[True, False]])

    def f(h):
        assert not h[:, 1].any()
        return h.sum((1, 2)) + h[:, :, 0].sum(1)

    pushed = straight_through(f, torch.zeros(1, 2, 3), mask, uniform(1, 3, 2))
    assert pushed[0, 0].any() and not pushed[0, 1].any()


def cloud(*terms, prompts=700, particles=6, steps=30, seed=0, **more):
    return sample_sequences(
        net, PATH, *terms, lengths=[2] * prompts, particles=particles, steps=steps, seed=seed,
        select="all", **more,
    )  # fmt: skip


def measures(result):
    """Estimates of the unnormalised law on the nine sequences, one a cloud, shape (P, 9)."""
    found = one_hot(numbers(result.latents), 9).double()
    return (result.log_w.exp()[..., None] * found).mean(1)


@pytest.fixture(scope="module")
def plain():
    """The law of the chain itself, from plain runs."""
    return measures(cloud(prompts=9000, particles=1, steps=30, seed=1))


def assert_same(estimates, reference, factor):
    """Both are independent samples: compare estimates with `factor` times the reference's mean."""
    scaled = reference * factor
    error = (estimates.var(0) / len(estimates) + scaled.var(0) / len(scaled)).sqrt()
    score = (estimates.mean(0) - scaled.mean(0)).abs() / error
    assert float(score.max()) < 4.5, score


def test_the_chain_has_the_law_of_its_data(plain):
    assert torch.allclose(plain.mean(0), PRIOR, atol=0.02)


@pytest.mark.parametrize("draws", [1, 3])
def test_tilted_law_and_normaliser(plain, draws):
    terms = (Tilt(REWARD, scale=1.5, draws=draws),)
    assert_same(measures(cloud(*terms)), plain, (1.5 * prizes()).exp())


def test_draws_behind_a_reward_have_the_posterior_s_law():
    p = torch.tensor([[[0.5, 0.3, 0.2], [0.0, 0.0, 0.0]]]).expand(200, -1, -1)
    streams = [stream(3, k) for k in range(200)]
    drawn = drawn_letters(p, streams, 50)
    assert drawn.shape == (50, 200, 2, 3) and not drawn[:, :, 1].any()
    share, error = drawn[:, :, 0].mean((0, 1)), (p[0, 0] * (1 - p[0, 0]) / 10_000).sqrt()
    assert float(((share - p[0, 0]) / error).abs().max()) < 4.5


@pytest.fixture(scope="module")
def of_eta(plain):
    """The law of the chain itself at each eta: with other noise another chain is run."""
    quiet = measures(cloud(prompts=9000, particles=1, steps=30, seed=1, eta=0.6))
    return {1.0: plain, 0.6: quiet}


def test_copies_share_the_draws_behind_their_reward():
    seen = []

    class Watched(Tilt):
        def log_twist(self, step, state):
            twist, new = super().log_twist(step, state)
            if not step.final and step.may_resample:
                seen.append((twist, step.parents))
            return twist, new

    tilt = Watched(REWARD, scale=1.5, draws=3)
    result = cloud(tilt, prompts=2, resample=Resample("multinomial", ess=None, window=(0, 1)))
    own = torch.arange(result.log_w.numel())
    for (_, parents), rows in zip(seen[1:], result.rows, strict=False):
        assert torch.equal(parents, own if rows is None else rows)
    assert sum(not torch.equal(parents, own) for _, parents in seen) > 5


@pytest.mark.parametrize("eta", [1.0, 0.6])
@pytest.mark.parametrize("space", ["state", "logits"])
def test_guidance_with_its_ratio_leaves_the_law(of_eta, eta, space):
    guide = StraightThrough(REWARD, scale=0.6, draws=2, space=space)
    result = cloud(guide, eta=eta)
    assert float(result.log_w.std()) > 0.1  # it did something
    assert_same(measures(result), of_eta[eta], torch.ones(9))


def test_guidance_without_its_ratio_changes_the_law(plain):
    result = cloud(StraightThrough(REWARD, scale=0.6, draws=2, reweight=False))
    assert not result.log_w.any() and result.target.startswith("heuristic")
    with pytest.raises(AssertionError):
        assert_same(measures(result), plain, torch.ones(9))


@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_guided_and_tilted_is_the_tilted_law(of_eta, eta):
    terms = (StraightThrough(REWARD, scale=0.8, draws=2), Tilt(REWARD, scale=1.5))
    result = cloud(*terms, eta=eta)
    assert_same(measures(result), of_eta[eta], (1.5 * prizes()).exp())
    exact = PRIOR * (1.5 * prizes()).exp()
    ours = measures(result).mean(0)
    # Only with eta 1 is a chain of 30 steps that near to the law of its data.
    assert eta < 1 or torch.allclose(ours / ours.sum(), exact / exact.sum(), atol=0.03)
    assert "prize" in result.target and "heuristic" not in result.target


def test_the_gradient_at_the_state_makes_more_even_weights_than_that_at_the_logits():
    tilt = Tilt(REWARD, scale=1.5, potential="none")
    ess = [
        cloud(
            StraightThrough(REWARD, scale=0.8, draws=4, space=space),
            tilt,
            resample=None,
            prompts=40,
            particles=60,
        ).ess  # fmt: skip
        for space in ("state", "logits")
    ]
    assert float(ess[0].mean()) > float(ess[1].mean())


def test_window_and_scale_zero_guide_nowhere():
    plain = cloud(prompts=5)
    for term in (
        StraightThrough(REWARD, scale=0.0),
        StraightThrough(REWARD, window=(0.99, 1.0)),
    ):
        assert torch.equal(cloud(term, prompts=5).latents, plain.latents)


def test_same_seed_same_bits_whatever_the_micro_batch():
    terms = (StraightThrough(REWARD), Tilt(REWARD))
    first, second = cloud(*terms, prompts=4), cloud(*terms, prompts=4, micro_batch=5)
    assert torch.equal(first.latents, second.latents)
    assert torch.allclose(first.log_w, second.log_w)
    reversed_ = cloud(*terms[::-1], prompts=4)
    assert torch.equal(first.log_w, reversed_.log_w)


def test_costs_are_counted():
    result = cloud(StraightThrough(REWARD, draws=3), Tilt(REWARD), prompts=2, steps=10)
    assert result.cost.denoiser_evaluations == 2 * 6 * 10
    assert result.cost.reward_calls["prize (gradient)"] == 2 * 6 * 10 * 3


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: StraightThrough(prize, draws=0), "draws must be at least 1, got 0"),
        (lambda: StraightThrough(prize, scale=float("nan")), "scale must be finite"),
        (lambda: StraightThrough(prize, temperature=0.0), "temperature must be positive"),
        (lambda: StraightThrough(prize, window=(0.5, 0.5)), "window must be two shares"),
        (lambda: StraightThrough(prize, space="x"), "space must be state or logits"),
        (lambda: StraightThrough(as_reward(len, inputs="text")), "differentiable reward of kind"),
        (
            lambda: draws(lambda h: h.argmax(-1).sum(1).float(), torch.zeros(2, 3)),
            "differentiable",
        ),
        (lambda: draws(lambda h: h.sum(), torch.zeros(2, 3)), "must return shape"),
        (lambda: cloud(Anneal(2.0)), "needs the network.s predictions"),
        (lambda: cloud(StraightThrough(prize), StraightThrough(prize)), "one StraightThrough"),
        (lambda: cloud(StraightThrough(prize), stochastic=False), "reweight=False"),
        (lambda: cloud(Tilt(REWARD), stochastic=False), "copies would stay identical"),
        (lambda: cloud(steps=0), "steps must be at least 1"),
        (lambda: cloud(particles=0), "particles must be at least 1"),
        (lambda: cloud(eta=0.0), "eta must be positive"),
    ],
)
def test_bad_input_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        bad()


def test_length_zero_is_refused():
    with pytest.raises(ValueError, match="lengths must be at least 1"):
        sample_sequences(net, PATH, lengths=[2, 0])


def test_paper_schedule_guides_without_a_ratio():
    path = GumbelPath(K, "paper")
    term = StraightThrough(REWARD, scale=3.0, reweight=False)
    call = {"lengths": [2] * 400, "particles": 1, "steps": 30, "seed": 0}
    guided = sample_sequences(net, path, term, **call)
    alone = sample_sequences(net, path, **call)
    gain = prizes()[numbers(guided.latents)].mean() - prizes()[numbers(alone.latents)].mean()
    assert float(gain) > 0.3

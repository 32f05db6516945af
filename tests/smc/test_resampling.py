"""Properties of the resampling schemes, on any weights."""

import math
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from fkdiff.smc import SCHEMES, ancestors, draws
from tests.exact import assert_mean

UNBIASED = [name for name in SCHEMES if name != "beam"]
BOTH = pytest.mark.parametrize("few", [0, draws.FEW])  # by Poisson counts, and one by one

# Ordinary log-weights, zero weights, and gaps far beyond the range of exp.
log_weight = st.one_of(
    st.floats(-5, 5),
    st.just(-math.inf),
    st.sampled_from([0.0, 1e300, -1e300, 1000.0, -1000.0, 1e-300]),
)


@st.composite
def clouds(draw):
    prompts, particles = draw(st.integers(1, 4)), draw(st.integers(1, 33))
    row = st.lists(log_weight, min_size=particles, max_size=particles)
    row = row.filter(lambda values: max(values) > -math.inf)
    rows = draw(st.lists(row, min_size=prompts, max_size=prompts))
    return torch.tensor(rows, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(clouds(), st.integers(0, 2**31), st.sampled_from([0, draws.FEW]))
def test_offspring_of_any_weights(log_w, seed, few):
    with mock.patch.object(draws, "FEW", few):
        check_offspring(log_w, seed)


def check_offspring(log_w, seed):
    prompts, particles = log_w.shape
    weights = log_w.softmax(1)
    for name, scheme in SCHEMES.items():
        counts = scheme(weights, seeded(seed))
        assert counts.shape == weights.shape and counts.dtype == torch.int64, name
        assert (counts >= 0).all() and (counts.sum(1) == particles).all(), name
        assert not counts[weights == 0].any(), name
        if name in ("systematic", "ssp"):
            assert ((counts - particles * weights).abs() < 1 + 1e-9).all(), name
        if name == "residual":
            assert (counts >= (particles * weights - 1e-9).floor()).all(), name
        rows = ancestors(counts)
        assert rows.dtype == torch.int64 and rows.shape == (prompts * particles,), name
        assert (rows // particles == torch.arange(prompts * particles) // particles).all(), name
        assert torch.equal(rows.bincount(minlength=len(rows)), counts.flatten()), name
        kept = counts.flatten() > 0
        assert torch.equal(rows[kept], kept.nonzero().flatten()), name


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=20), st.integers(-1000, 1000))
def test_a_constant_changes_nothing(log_w, constant):
    log_w = torch.tensor([log_w], dtype=torch.float64)
    for name, scheme in SCHEMES.items():
        plain = scheme(log_w.softmax(1), seeded(3))
        assert torch.equal(plain, scheme((log_w + constant).softmax(1), seeded(3))), name


@pytest.mark.parametrize("name", SCHEMES)
def test_special_weights(name):
    scheme = SCHEMES[name]
    one = torch.ones(3, 1, dtype=torch.float64)
    assert torch.equal(scheme(one, seeded(0)), torch.ones(3, 1).long())
    dominant = torch.tensor([[0.0, -1e300, -800.0, 0.0 - 1e9]]).double().softmax(1)
    assert scheme(dominant, seeded(0)).tolist() == [[4, 0, 0, 0]]
    if name in ("systematic", "stratified", "residual", "ssp", "birth_death"):
        # 49 x (1/49) is below 1 in floating point.
        for particles in (2, 3, 49, 1000):
            equal = torch.zeros(2, particles, dtype=torch.float64).softmax(1)
            assert (scheme(equal, seeded(0)) == 1).all()


@BOTH
@pytest.mark.parametrize("name", UNBIASED)
def test_mean_offspring(name, few, monkeypatch):
    monkeypatch.setattr(draws, "FEW", few)
    log_w = torch.tensor([0.3, -2.0, 1.1, -torch.inf, 0.0, 2.4, -0.7]).double()
    weights = log_w.softmax(0).expand(20_000, -1)
    assert_mean(SCHEMES[name](weights, seeded(1)).double(), 7 * weights[0])


def test_beam_keeps_the_best_and_is_biased():
    weights = torch.tensor([0.1, 0.3, 0.15, 0.05, 0.1, 0.1, 0.1, 0.1]).double()
    counts = SCHEMES["beam"](weights[None], None)
    assert counts.tolist() == [[0, 4, 4, 0, 0, 0, 0, 0]]
    with pytest.raises(AssertionError, match="z"):
        assert_mean(counts.double().expand(100, -1), 8 * weights)


def test_wide_rows_in_blocks(monkeypatch):
    log_w = torch.randn(1, 2**17 + 5, generator=seeded(0), dtype=torch.float64)
    log_w[0, ::3] = -torch.inf
    for name in ("multinomial", "residual", "stratified"):
        weights = log_w.softmax(1)
        counts = SCHEMES[name](weights, seeded(1))
        assert torch.equal(counts, SCHEMES[name](weights, seeded(1))), name
        assert counts.sum() == len(log_w[0]) and not counts[0, ::3].any(), name
        monkeypatch.setattr(draws, "BLOCK", 1000)
        assert torch.equal(counts, SCHEMES[name](weights, seeded(1))), name
        tenth = counts[0].double().split(13_108)
        expected = (len(log_w[0]) * weights[0]).split(13_108)
        z = [(c.sum() - e.sum()) / e.sum().sqrt() for c, e in zip(tenth, expected, strict=True)]
        assert max(abs(score) for score in z) < 4.5, name


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_draws_beside_the_poisson_counts(margin, monkeypatch):
    # Without a margin, every other row is drawn once more.
    monkeypatch.setattr(draws, "FEW", 0)
    monkeypatch.setattr(draws, "MARGIN", margin)
    log_w = torch.cat([torch.linspace(-2, 1, 99), torch.tensor([4.0])]).double()
    weights = log_w.softmax(0).expand(4000, -1)
    counts = SCHEMES["multinomial"](weights, seeded(6)).double()
    assert (counts.sum(1) == 100).all()
    assert_mean(counts, 100 * weights[0])
    variance = 100 * weights[0] * (1 - weights[0])
    assert_mean((counts - 100 * weights[0]).square(), variance)
    first, last = (counts - 100 * weights[0])[:, [98, 99]].unbind(1)
    assert_mean(first * last, -100 * weights[0, 98] * weights[0, 99])


@BOTH
@pytest.mark.parametrize("name", ["multinomial", "residual"])
def test_draws_follow_the_multinomial_law(name, few, monkeypatch):
    monkeypatch.setattr(draws, "FEW", few)
    # Of two particles that expect half an offspring each, both variances are known.
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0]).double().expand(20_000, -1)
    counts = SCHEMES[name](weights, seeded(2)).double()
    variance = 4 * 0.25 * 0.75 if name == "multinomial" else 0.0
    assert_mean((counts[:, 1] - 1).square(), variance)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_float32_cumsum_trap(name):
    # Summed in float32, these weights end below 1, and a last uniform above their sum would
    # choose the last particle, whose weight is zero; a uniform of 0 the first.
    torch.manual_seed(0)
    log_w = torch.randn(2000, 64).float()
    log_w[:, [0, -1]] = -torch.inf
    weights = log_w.softmax(1)
    assert (weights.cumsum(1)[:, -1] < 1).any()
    counts = SCHEMES[name](weights.double() / weights.double().sum(1, keepdim=True), seeded(0))
    assert not counts[:, [0, -1]].any()


@pytest.mark.parametrize("u", [0.0, 5e-17, 1 - 2**-53])
@pytest.mark.parametrize("phase", [0, 5, 36])
@pytest.mark.parametrize("name", SCHEMES)
def test_extreme_uniforms(name, phase, u, monkeypatch):
    log_w = torch.randn(200, 37, generator=seeded(0), dtype=torch.float64)
    log_w[:, [0, 5, -1]] = -torch.inf
    plain = torch.Tensor.uniform_

    def extreme(tensor, generator=None):
        plain(tensor, generator=generator)[:, phase : phase + 1] = u
        return tensor

    monkeypatch.setattr(torch.Tensor, "uniform_", extreme)
    counts = SCHEMES[name](log_w.softmax(1), seeded(7))
    assert (counts.sum(1) == 37).all() and (counts >= 0).all()
    assert not counts[:, [0, 5, -1]].any()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_prompt_draws_from_its_own_generator(name):
    log_w = torch.randn(5, 9, generator=seeded(4), dtype=torch.float64)
    together = SCHEMES[name](log_w.softmax(1), [seeded(p) for p in range(5)])
    for p in (0, 3):
        alone = SCHEMES[name](log_w[[p]].softmax(1), [seeded(p)])
        assert torch.equal(alone[0], together[p])


def test_ssp_is_negatively_associated():
    weights = torch.tensor([0.35, 0.3, 0.2, 0.15]).double().expand(20_000, -1)
    counts = SCHEMES["ssp"](weights, seeded(5)).double()
    covariance = counts.T.cov()
    assert (covariance - covariance.diag().diag() < 0.01).all()


class Counting(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.operations += 1
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("name", ["multinomial", "residual", "birth_death"])
def test_few_particles_take_few_operations(name):
    """Counts by Poisson draws pay for thousands of particles alone."""
    weights = torch.randn(2, 8, generator=seeded(0)).double().softmax(1)
    with Counting() as counting:
        SCHEMES[name](weights, [seeded(1), seeded(2)])
    assert counting.operations < 50

"""RL guidance: ends bit for bit, mixtures of Gaussians in closed form, beta_eff = beta / w."""

import pytest
import torch

from fkdiff import Correct, Grid, RLGuidance, sample
from fkdiff.terms import Expert
from tests.corrected import KINDS, Normal, gaussian_log_z, grids, product_log_z

BASE = Normal([0.5, -0.4], [[1.0, 0.5], [0.5, 0.8]])
SLOPES = torch.tensor([[0.0, 0.0], [0.6, 0.0], [0.0, 0.6], [0.5, 0.5]], dtype=torch.float64)
BETA = 0.8
# A quadratic reward r . x - x . C x / 2, so that every optimum of it is a Gaussian.
LINEAR, CURVE = torch.tensor([0.6, -0.3]).double(), torch.tensor([[0.4, 0.1], [0.1, 0.3]]).double()


def optimum(beta):
    """The KL-regularised optimum base * exp(R / beta), normalised."""
    inverse = torch.linalg.inv(BASE.covariances[0])
    precision = inverse + CURVE / beta
    mean = torch.linalg.solve(precision, inverse @ BASE.means[0] + LINEAR / beta)
    return Normal(mean.tolist(), torch.linalg.inv(precision).tolist())


def log_moments(log_z):
    """Cumulant generating function at the slopes: that of the normalised law."""
    return (log_z - log_z[0])[1:]


@pytest.mark.parametrize("w", [0.4, 1.6])
@pytest.mark.parametrize("kind", KINDS)
def test_the_corrected_mixture_is_the_optimum_of_beta_over_w(kind, w):
    tuned = optimum(BETA)
    pool = [(1 - w, BASE), (w, tuned)]
    half, full = (gaussian_log_z(Correct().move, grids(n)[kind], pool, SLOPES) for n in (60, 120))
    found = log_moments(2 * full - half)
    assert torch.allclose(
        found, log_moments(product_log_z([(1.0, optimum(BETA / w))], SLOPES)), atol=5e-3
    )
    # And not that of another strength.
    other = log_moments(product_log_z([(1.0, optimum(BETA * w))], SLOPES))
    assert (found - other).abs().max() > 0.05


def run(denoisers, *terms, **settings):
    settings = {"particles": 3, "seed": 2, "shape": (2,)} | settings
    return sample(denoisers, Grid.vp(20, 5.0, "score"), *terms, **settings)


PAIR = {"cond": BASE.score, "tuned": optimum(BETA).score}


@pytest.mark.parametrize("w, name", [(0.0, "cond"), (1.0, "tuned")])
def test_both_ends_are_the_models_bit_for_bit(w, name):
    found = run(PAIR, RLGuidance("tuned", w), dtype=torch.float64)
    alone = run({"cond": PAIR[name]}, dtype=torch.float64)
    assert torch.equal(found.latents, alone.latents)


def test_schedules_and_intervals():
    constant = run(PAIR, RLGuidance("tuned", 1.5), dtype=torch.float64)
    scheduled = run(PAIR, RLGuidance("tuned", lambda t: 1.5), dtype=torch.float64)
    assert torch.equal(constant.latents, scheduled.latents)
    term = RLGuidance({"a": 0.5, "b": 1.0}, lambda t: 2 * t, interval=(0.25, 0.75))
    assert term.weights(0.5) == {"a": 0.5, "b": 1.0}
    assert term.weights(0.25) == term.weights(0.8) == {"a": 0.0, "b": 0.0}
    # Its first transition is the one that ends within it, its last the one that ends with it.
    assert term.weights(0.2501)["b"] > 0 and term.weights(0.75)["b"] > 0
    assert term.weights(0.7501)["b"] == 0
    late = run(PAIR, RLGuidance("tuned", 1.0, interval=(0.5, 1)), dtype=torch.float64)
    assert late.cost.denoiser_evaluations == 3 * 30
    with pytest.raises(ValueError, match="w must be finite, got inf at progress 0.5"):
        RLGuidance("tuned", lambda t: float("inf")).weights(0.5)


def test_several_experts_share_the_weight():
    zero = torch.zeros(1, 2)
    pool = [Expert("uncond", -1.0, zero), Expert("cond", 2.0, zero)]
    made = RLGuidance({"a": 0.5, "b": 0.25}, 2).experts(pool, lambda source, branch: zero + 1)
    assert {e.name: e.b for e in made} == {
        "uncond": 0.5, "a/uncond": -1.0, "b/uncond": -0.5,
        "cond": -1.0, "a/cond": 2.0, "b/cond": 1.0,
    }  # fmt: skip


def test_weights_mode_leaves_the_pool_alone_and_needs_adapters():
    pool = [Expert("cond", 1.0, torch.zeros(1, 2))]
    assert RLGuidance("lora", 1.6, mode="weights").experts(pool, None) is pool  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="mode 'weights' scales LoRA adapters"):
        RLGuidance(torch.nn.Identity(), 1.6, mode="weights")
    with pytest.raises(ValueError, match="mode must be"):
        RLGuidance("lora", mode="both")  # pyright: ignore[reportArgumentType]

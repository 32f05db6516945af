"""The Gumbel-softmax path against finite differences, autograd, quadrature and its own law."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from fkdiff.processes.simplex import (
    GumbelPath,
    centre,
    gumbel,
    log_likelihood,
    mixture_score,
    pull_back,
    simplex_step,
    simplex_velocity,
)
from tests.exact import assert_mean


def prior_of(k, seed=None):
    generator = torch.Generator().manual_seed(k if seed is None else seed)
    return torch.randn(k, generator=generator, dtype=torch.float64).softmax(-1)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return gumbel(torch.rand(shape, generator=generator, dtype=torch.float64))


def velocity_error(path, g, t=0.4, h=1e-5):
    """Largest difference of the velocity from finite differences along one path."""
    x1 = one_hot(torch.tensor(3), 8).double()
    after, before = (path.interpolate(x1, g, t + d).softmax(-1) for d in (h, -h))
    x = path.interpolate(x1, g, t).softmax(-1)
    return float(((after - before) / (2 * h) - simplex_velocity(x, x1, path.rate(t))).abs().max())


@pytest.mark.parametrize("schedule", ["consistent", "paper"])
def test_velocity_is_the_derivative_of_the_noiseless_path(schedule):
    assert velocity_error(GumbelPath(8, schedule), torch.zeros(8).double()) < 1e-8


def test_only_the_consistent_velocity_is_that_of_the_noisy_path():
    g = noise(8)
    assert velocity_error(GumbelPath(8), g) < 1e-8
    assert velocity_error(GumbelPath(8, "paper"), g) > 0.01


def test_the_cooled_noisy_path_moves_by_itself_alone():
    path, x1, g, t, h = GumbelPath(8, "paper"), torch.eye(8).double()[3], noise(8), 0.4, 1e-5
    after, before = (path.interpolate(x1, g, t + d).softmax(-1) for d in (h, -h))
    x = path.interpolate(x1, g, t).softmax(-1)
    own = path.decay * x * (x.log() - (x * x.log()).sum())
    assert float(((after - before) / (2 * h) - own).abs().max()) < 1e-8


def test_the_paper_path_ends_short_of_its_vertex():
    path = GumbelPath(8, "paper")
    end = path.interpolate(torch.eye(8)[3], torch.zeros(8), 1.0).softmax(-1)
    assert 1 / path.alpha(1.0) == pytest.approx(0.498, abs=1e-3)
    assert float(end[3]) == pytest.approx(0.516, abs=1e-3)


def test_velocity_conserves_mass_and_agrees_with_the_step_in_logits():
    x, p = noise(50, 6).softmax(-1), noise(50, 6, seed=1).softmax(-1)
    u = simplex_velocity(x, p, 7.0)
    assert float(u.sum(-1).abs().max()) < 1e-12
    # d softmax(z) = J dz with dz = rate P p.
    dz = 7.0 * centre(p)
    assert torch.allclose(x * (dz - (x * dz).sum(-1, keepdim=True)), u)


def joint_log_density(z, a, temperature, k):
    """Log-density of a centred ExpConcrete variable (Maddison et al.), up to a constant."""
    log_weights = a * one_hot(torch.tensor(k), z.shape[-1])
    scaled = log_weights - temperature * z
    return scaled.sum(-1) - z.shape[-1] * scaled.logsumexp(-1)


@pytest.mark.parametrize("schedule", ["consistent", "paper"])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_likelihood_and_score_are_those_of_the_concrete_law(schedule, t):
    path = GumbelPath(5, schedule)
    alpha, sigma = path.alpha(t), path.sigma(t)
    a, temperature = alpha / sigma, 1 / sigma
    prior = prior_of(5)
    z = path.interpolate(torch.eye(5).double()[2], noise(5), t).requires_grad_()
    densities = torch.stack([joint_log_density(z, a, temperature, k) for k in range(5)])
    ours = log_likelihood(z, alpha, sigma)
    assert torch.allclose(ours.log_softmax(-1), densities.log_softmax(-1))
    marginal = (densities + prior.log()).logsumexp(-1)
    (gradient,) = torch.autograd.grad(marginal, z)
    p = (ours + prior.log()).softmax(-1)
    assert torch.allclose(mixture_score(z, p, alpha, sigma), centre(gradient))
    assert abs(float(mixture_score(z, p, alpha, sigma).detach().sum())) < 1e-9


@pytest.mark.parametrize("schedule", ["consistent", "paper"])
def test_gradients_are_carried_back_through_the_likelihood(schedule):
    path, t = GumbelPath(5, schedule), 0.4
    z = path.interpolate(torch.eye(5).double()[1], noise(5), t).requires_grad_()
    u = centre(noise(5, seed=4))
    (exact,) = torch.autograd.grad(log_likelihood(z, path.alpha(t), path.sigma(t)) @ u, z)
    ours = pull_back(z.detach(), u, path.alpha(t), path.sigma(t))
    assert torch.allclose(ours, exact) and abs(float(ours.sum())) < 1e-9


def test_posterior_is_calibrated_on_the_interpolant():
    """Among states to which the posterior gives k a share, that share of them came from k."""
    prior, path = prior_of(6), GumbelPath(6)
    tokens = torch.multinomial(prior, 40000, True, generator=torch.Generator().manual_seed(0))
    z = path.interpolate(one_hot(tokens, 6).double(), noise(40000, 6, seed=1), 0.35)
    p = (log_likelihood(z, path.alpha(0.35), 1.0) + prior.log()).softmax(-1)
    assert_mean(p - one_hot(tokens, 6).double(), torch.zeros(6))
    assert_mean(p * (p - one_hot(tokens, 6).double()), torch.zeros(6))


def chain(k, n, steps, eta, *, schedule="consistent", s_max=None, scored=True, seed=0):
    """Final centred logits of the sampler with the exact posterior."""
    generator = torch.Generator().manual_seed(seed)
    path, prior = GumbelPath(k, schedule, s_max), prior_of(k).float()
    start = torch.rand(n, k, generator=generator, dtype=torch.float64)
    z = centre(path.sigma(0.0) * gumbel(start)).float()
    for levels in path.transitions(steps):
        p = (log_likelihood(z, levels.alpha, levels.sigma) + prior.log()).softmax(-1)
        kernel = simplex_step(z, p, levels, eta)
        mean = kernel.mean if scored else z + (levels.alpha_next - levels.alpha) * centre(p)
        z = centre(mean + kernel.std * torch.randn(z.shape, generator=generator))
    return z


def divergence(z, k):
    drawn = torch.bincount(z.argmax(-1), minlength=k).double() / len(z)
    return float(torch.xlogy(drawn, drawn / prior_of(k)).sum())


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("k, n", [(4, 8000), (20, 8000), (128, 3000), (512, 1000)])
def test_exact_posterior_reaches_the_sampling_floor(k, n, eta):
    """2 N KL is about chi-square with K - 1 degrees: mean K - 1, variance 2 (K - 1)."""
    excess = 2 * n * divergence(chain(k, n, 40, eta), k) - (k - 1)
    slack = 0.004 * 2 * n  # what 40 steps leave
    assert excess < 4.5 * math.sqrt(2 * (k - 1)) + slack


@pytest.mark.parametrize("k", [8, 20])
def test_the_paper_schedule_has_a_floor_that_steps_do_not_lower(k):
    for steps in (20, 80):
        assert divergence(chain(k, 4000, steps, 0.0, schedule="paper"), k) > 0.015


def spread(z):
    """Second moment of each row's logits, by rows."""
    return z.double().square().mean(-1)


def final_moment(k, s_max, n=20000):
    """The same for exact draws of the path at t = 1."""
    tokens = torch.multinomial(prior_of(k), n, True, generator=torch.Generator().manual_seed(5))
    path = GumbelPath(k, s_max=s_max)
    return spread(path.interpolate(one_hot(tokens, k).double(), noise(n, k, seed=6), 1.0))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_step_keeps_the_law_of_the_logits(eta):
    exact = final_moment(8, 12.0)
    assert float(exact.mean()) ** 0.5 == pytest.approx(4.15, abs=0.03)
    ours = spread(chain(8, 6000, 100, eta, s_max=12.0))
    # Euler's rule leaves 0.5% of the second moment at 100 steps.
    assert float(ours.mean()) == pytest.approx(float(exact.mean()), rel=0.015)


def test_without_the_score_the_law_of_the_logits_is_lost():
    """Tokens alone wouldn't tell: their KL stays small."""
    z = chain(8, 4000, 60, 1.0, s_max=12.0, scored=False)
    assert float(spread(z).mean()) > 1.3 * float(final_moment(8, 12.0).mean())
    assert divergence(z, 8) < 0.005


def test_kernel_ratio_is_the_girsanov_one():
    path = next(iter(GumbelPath(5).transitions(10)))
    z, p = centre(noise(3, 5)), noise(3, 5, seed=1).softmax(-1)
    plain = simplex_step(z, p, path)
    gain = path.alpha_next - path.alpha
    delta = centre(noise(3, 5, seed=2)) * gain
    drawn = centre(plain.mean + delta + plain.std * noise(3, 5, seed=3))
    guided = type(plain)(plain.mean + delta, plain.std)
    ours = plain.log_prob(drawn) - guided.log_prob(drawn)
    stated = (-(delta * (drawn - plain.mean)).sum(1) + delta.square().sum(1) / 2) / plain.std**2
    assert torch.allclose(ours, stated)


@pytest.mark.parametrize(
    "bad, words",
    [
        (lambda: GumbelPath(1), "categories must be at least 2"),
        (lambda: GumbelPath(4, "linear"), "schedule must be one of"),
        (lambda: GumbelPath(4, s_max=-1.0), "s_max must be positive"),
        (lambda: list(GumbelPath(4).transitions(0)), "steps must be at least 1"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        bad()


def test_cooled_noise_has_no_stochastic_step():
    z = torch.zeros(2, 4)
    levels = next(iter(GumbelPath(4, "paper").transitions(5)))
    with pytest.raises(ValueError, match="schedule='consistent'"):
        simplex_step(z, z + 0.25, levels, eta=1.0)

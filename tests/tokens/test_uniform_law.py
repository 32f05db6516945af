"""The uniform path at length 2: the law of its chain by enumeration, for correlated tokens."""

import itertools

import pytest
import torch
from scipy.stats import chi2

from fkdiff import Resample, Tilt, UniformPath, as_reward, sample_tokens
from fkdiff.processes.tokens import TokenStep
from tests.tokens.test_sampling import z_of_log_z

V = 3
STATES = torch.tensor(list(itertools.product(range(V), repeat=2)))
LAW = torch.tensor([0.22, 0.03, 0.05, 0.04, 0.26, 0.02, 0.06, 0.02, 0.30], dtype=torch.float64)
R = torch.tensor([0.0, 1.2, -0.5, 0.8, -1.0, 0.3, 1.5, 0.0, -0.7], dtype=torch.float64)


def corrupted(alpha):
    """q(x | x0) of one position: kept with probability alpha, else any token, (V, V)."""
    return alpha * torch.eye(V, dtype=torch.float64) + (1 - alpha) / V


def posteriors(alpha):
    """Exact p(x0_i = v | x) of each position at each of the nine states, shape (9, 2, V)."""
    noise = corrupted(alpha)
    seen = (
        noise[STATES[None, :, 0], STATES[:, None, 0]]
        * noise[STATES[None, :, 1], STATES[:, None, 1]]
    )  # (clean, state)
    joint = LAW[:, None] * seen
    return (
        torch.stack(
            [
                torch.stack([joint[STATES[:, i] == v].sum(0) for v in range(V)], 1)
                for i in range(2)
            ],
            1,
        )
        / joint.sum(0)[:, None, None]
    )


def index(tokens):
    return tokens[..., 0] * V + tokens[..., 1]


def denoiser(tokens, alpha):
    return posteriors(alpha)[index(tokens)].log()


def chain_law(path):
    """Law of the chain that is run: each position by Bayes' rule, given a draw of x0."""
    law = torch.full((9,), 1 / 9, dtype=torch.float64)
    for step in path.transitions():
        after, back = corrupted(step.alpha_next), corrupted(step.alpha / step.alpha_next)
        given = after[:, None, :] * back.T[None, :, :]  # (x0, x, x'): q(x'|x0) q(x|x')
        given = given / given.sum(-1, keepdim=True).clamp(min=1e-300)
        p = posteriors(step.alpha)
        kernel = torch.ones(9, 9, dtype=torch.float64)
        for i in range(2):
            moves = torch.einsum("sv,svx->sx", p[:, i], given[:, STATES[:, i]].movedim(0, 1))
            kernel *= moves[:, STATES[:, i]]
        law = law @ kernel
    return law


def masses(result):
    weights = result.log_w.exp() / result.log_w.shape[1]
    empty = torch.zeros(len(weights), 9, dtype=torch.float64)
    return empty.scatter_add(1, index(result.latents), weights)


def p_value(found, target, free):
    """Chi-square of the mean masses of as many states as are free."""
    difference, spread = found.mean(0) - target, torch.cov(found.T) / len(found)
    solved = torch.linalg.solve(spread[:free, :free], difference[:free])
    return chi2.sf(float(difference[:free] @ solved), free)


@pytest.mark.parametrize("steps", [3, 8])
@pytest.mark.parametrize("tilted", [False, True])
def test_law_of_two_correlated_tokens(steps, tilted):
    path = UniformPath(steps)
    tilt = Tilt(as_reward(lambda x: R[index(x)], name="r", inputs="tokens"))
    terms = (tilt,) if tilted else ()
    result = sample_tokens(
        denoiser, path, *terms, template=torch.full((3000, 2), -1), particles=4,
        resample=Resample(ess=0.95, window=(0, 1)) if tilted else None, seed=steps,
    )  # fmt: skip
    free = 9 if tilted else 8  # weights of one sum to 1
    exact = chain_law(path) * (R.exp() if tilted else 1)
    assert torch.allclose(chain_law(path).sum(), torch.tensor(1.0, dtype=torch.float64))
    assert p_value(masses(result), exact, free) > 1e-5
    assert not tilted or abs(z_of_log_z(result, exact.sum())) < 4.5
    # The law of the data, and that of its single tokens, are told apart.
    alone = torch.stack([LAW.reshape(V, V).sum(1), LAW.reshape(V, V).sum(0)])
    product = (alone[0][:, None] * alone[1]).flatten() * (R.exp() if tilted else 1)
    assert p_value(masses(result), product, free) < 1e-5


@pytest.mark.parametrize(("alpha", "after"), [(0.0, 0.3), (0.3, 0.6), (0.6, 0.95), (0.5, 1.0)])
def test_a_move_is_bayes_rule(alpha, after):
    """x' given x and a draw of x0: 60,000 moves from each token against its probabilities."""
    n, p = 60_000, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    given = corrupted(after)[:, None, :] * corrupted(alpha / after).T[None, :, :]
    exact = torch.einsum("v,vsx->sx", p, given / given.sum(-1, keepdim=True))
    generator = torch.Generator().manual_seed(4)
    for state in range(V):
        x = torch.full((n, 1), state)
        uniform = torch.rand(n, 3, 1, generator=generator, dtype=torch.float64)
        moved = UniformPath(1).move(x, p.expand(n, 1, V), TokenStep(alpha, after), uniform)
        share = torch.stack([(moved == v).double().mean() for v in range(V)])
        error = (exact[state] * (1 - exact[state]) / n).sqrt()
        assert float(((share - exact[state]).abs() / error).max()) < 4.5


def test_a_network_is_asked_again_at_another_level():
    """An answer holds at its own level alone, also where the tokens stayed as they were."""
    asked = []

    def slow(tokens, alpha):
        asked.append(alpha)
        return denoiser(tokens, alpha)

    path = UniformPath(5)
    sample_tokens(slow, path, template=torch.full((1, 2), -1), particles=2, seed=0)
    levels = [step.alpha for step in path.transitions()]
    assert sorted(set(asked)) == sorted(levels)

"""A law on sequences of two letters out of three, and its exact denoiser."""

import torch

from fkdiff.processes.simplex import GumbelPath, log_likelihood

K, LENGTH = 3, 2
PATH = GumbelPath(K)
SEQUENCES = [(a, b) for a in range(K) for b in range(K)]
# Correlated: what one letter says of the other counts.
PRIOR = torch.tensor([0.22, 0.03, 0.05, 0.04, 0.26, 0.02, 0.06, 0.02, 0.30], dtype=torch.float64)
PRIZE = torch.tensor([[0.0, 1.0, -0.5], [0.3, -1.0, 0.8]])


def net(z, alpha, sigma, mask=None, labels=None):
    """Logarithms of the exact marginal posteriors, shape (n, 2, 3)."""
    seen = log_likelihood(z.double(), alpha, sigma)
    joint = PRIOR.log().reshape(K, K) + seen[:, 0, :, None] + seen[:, 1, None, :]
    first, second = joint.logsumexp(2), joint.logsumexp(1)
    return torch.stack([first, second], 1).log_softmax(-1).float()


def prize(simplex):
    """A reward that couples both letters, differentiable; (n, 2, 3) -> (n,)."""
    each = (simplex * PRIZE.to(simplex)).sum(-1)
    return each.sum(1) + each[:, 0] * each[:, 1]


def prizes():
    """Its values on the nine sequences."""
    return prize(torch.stack([torch.eye(K)[list(s)] for s in SEQUENCES])).double()


def numbers(latents):
    """Which of the nine each one-hot sequence (..., 2, 3) is."""
    tokens = latents.argmax(-1)
    return tokens[..., 0] * K + tokens[..., 1]

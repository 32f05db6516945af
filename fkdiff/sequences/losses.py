r"""Losses of Gumbel-softmax flows: cross-entropy (flow matching) and squared error of the score.

Both are least at the true posterior $p(k_l \mid z)$, so that one network serves every sampler.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes.simplex import GumbelPath, gumbel, mixture_score
from fkdiff.sequences.alphabet import one_hot

__all__ = ["LossKind", "Network", "flow_matching_loss", "noised", "score_matching_loss"]

LossKind = Literal["flow", "score"]

Network: TypeAlias = Callable[..., Tensor]
"""(z, alpha, sigma, mask=, labels=) -> logits (n, L, K)."""


def noised(path: GumbelPath, tokens: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
    """Centred logits of tokens at times t, shape (n, L, K); zero at padding.

    Arguments:
        path: The path.
        tokens: Shape (n, L), int64, -1 at padding.
        t: Times in [0, 1], shape (n,).
        uniform: Uniform numbers in [0, 1), shape (n, L, K).
    """
    z = path.interpolate(one_hot(tokens, path.categories), gumbel(uniform), t[:, None, None])
    return z * (tokens >= 0)[..., None]


def flow_matching_loss(
    net: Network,
    path: GumbelPath,
    tokens: Tensor,
    t: Tensor,
    uniform: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    r"""$-E \log p_\theta(k_l \mid z_t)$ over all positions, a scalar.

    Arguments:
        net: Gives logits.
        path: The path.
        tokens: Clean sequences, shape (n, L), int64, -1 at padding.
        t: Times in [0, 1], shape (n,).
        uniform: Uniform numbers in [0, 1), shape (n, L, K).
        labels: Class numbers, shape (n,).

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361
    """
    logits = _logits(net, path, tokens, t, noised(path, tokens, t, uniform), labels)
    mask = tokens >= 0
    return torch.nn.functional.cross_entropy(logits[mask], tokens[mask])


def score_matching_loss(
    net: Network,
    path: GumbelPath,
    tokens: Tensor,
    t: Tensor,
    uniform: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    r"""$E \| s_\theta(z_t) - \nabla \log q_t(z_t \mid k) \|^2 / (T K)^2$ per position.

    $s_\theta$ is the marginal score under the network's posterior (`mixture_score`). The
    published variant lets the network give $\mathrm{softmax}(f) = (s + T) / (T K)$ directly; the
    same score is least, but no posterior is left for the flow.

    Arguments are those of `flow_matching_loss`.

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361
    """
    z = noised(path, tokens, t, uniform)
    alpha, sigma = path.alpha(t[:, None, None]), path.sigma(t[:, None, None])
    p = _logits(net, path, tokens, t, z, labels).softmax(-1)
    vertices = one_hot(tokens, path.categories)
    error = mixture_score(z, p, alpha, sigma) - mixture_score(z, vertices, alpha, sigma)
    return (error * sigma / path.categories).square().sum(-1)[tokens >= 0].mean()


def _logits(
    net: Network,
    path: GumbelPath,
    tokens: Tensor,
    t: Tensor,
    z: Tensor,
    labels: Tensor | None,
) -> Tensor:
    t = t[:, None, None]
    return net(z, path.alpha(t), path.sigma(t), mask=tokens >= 0, labels=labels)

"""Laws on the line whose noised scores, densities and products are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Mixture", "cells", "quadrature"]

_REACH, _CELLS = 9.0, 60


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians on the line: weights, means and standard deviations."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.weights, self.means, self.sds)
        weights, means, sds = torch.tensor(parts, dtype=torch.float64)
        return weights.log(), means, sds.square()

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        log_weights, means, variances = self._tensors
        weights = log_weights.exp()
        mean = float(weights @ means)
        return mean, float(weights @ (means.square() + variances)) - mean**2

    def _parts(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """Log-density of each component (n, C), and its score, at a noise level."""
        log_weights, means, variances = self._tensors
        spread = alpha**2 * variances + sigma**2
        away = x[:, None] - alpha * means
        log_p = log_weights - away.square() / spread / 2 - (2 * math.pi * spread).log() / 2
        return log_p, -away / spread

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """Log-density of points (n,)."""
        return self._parts(x, alpha, sigma)[0].logsumexp(1)

    def score(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Score of points (n, 1)."""
        log_p, scores = self._parts(x[:, 0], alpha, sigma)
        return (log_p.softmax(1) * scores).sum(1, keepdim=True)


def quadrature(
    pool: Sequence[tuple[float, Mixture]], tilt: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, float]:
    """Integrates exp(tilt) times the product of laws to their powers over even cells.

    Returns:
        The cells' edges, (61,), their probabilities, (60,), and log Z.
    """
    fine = 400  # points a cell
    width = 2 * _REACH / _CELLS / fine
    edges = torch.linspace(-_REACH, _REACH, _CELLS + 1, dtype=torch.float64)
    x = edges[0] + (torch.arange(_CELLS * fine, dtype=torch.float64) + 0.5) * width
    log_p = torch.stack([b * law.log_density(x) for b, law in pool]).sum(0) + tilt(x)
    log_z = float(log_p.logsumexp(0) + math.log(width))
    return edges, log_p.softmax(0).reshape(_CELLS, fine).sum(1), log_z


def cells(x: Tensor, weights: Tensor, edges: Tensor) -> Tensor:
    """Weight of the points (n,) in each cell; what lies outside is in none."""
    place = torch.bucketize(x, edges, right=True) - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    empty = torch.zeros(len(edges) - 1, dtype=torch.float64)
    return empty.index_add(0, place[inside], weights[inside])

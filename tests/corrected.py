"""Exact answers for corrected runs: mixtures in one dimension, Gaussians in any number.

The weighted law of a discretised corrected chain is found without sampling, by the backward
equation: u(x) = exp(d(x)) E[u(x')], from u = f at the end. The move under test supplies d and the
law of x'; what u must become is known by quadrature of the product of the densities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fkdiff import Grid
from fkdiff.processes import Gaussian, output_to_epsilon

__all__ = [
    "KINDS",
    "Q1",
    "Q2",
    "Mixture",
    "Normal",
    "backward",
    "gaussian_log_z",
    "grids",
    "line",
    "moments",
    "pool_at",
    "product_log_z",
    "quadrature",
]

Move = Callable[[Tensor, Gaussian, Sequence[tuple[float, Tensor]], Gaussian | None], object]


def _tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Mixture:
    """Gaussians in d dimensions: weights (C,), means (C, d), covariances (C, d, d)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def _parts(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """Log-density of each component (n, C), and its score (n, C, d)."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        precision = torch.linalg.inv(alpha**2 * self.covariances + sigma**2 * eye)
        away = x[:, None] - alpha * self.means
        scores = -torch.einsum("cij,ncj->nci", precision, away)
        constant = torch.logdet(precision / (2 * math.pi)) / 2 + self.weights.log()
        return constant + (away * scores).sum(2) / 2, scores

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        return self._parts(x, alpha, sigma)[0].logsumexp(1)

    def score(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        parts, scores = self._parts(x, alpha, sigma)
        return (parts.softmax(1)[..., None] * scores).sum(1)


def line(weights, means, sds) -> Mixture:
    """A mixture on the line."""
    return Mixture(_tensor(weights), _tensor(means)[:, None], _tensor(sds)[:, None, None] ** 2)


Q1 = line([0.55, 0.30, 0.15], [-3.0, 0.5, 3.5], [0.6, 0.9, 0.5])
KINDS = ("vp", "ve", "flow")
Q2 = line([0.35, 0.65], [-2.0, 2.5], [1.0, 0.8])


def Normal(mean, covariance) -> Mixture:  # noqa: N802  # a law, like the class
    """One Gaussian."""
    return Mixture(_tensor([1.0]), _tensor(mean)[None], _tensor(covariance)[None])


def grids(steps: int) -> dict[str, Grid]:
    """The three kinds of path; the flow starts in pure noise."""
    return {
        "vp": Grid.vp(steps, prediction="score"),
        "ve": Grid.ve(steps, prediction="score"),
        "flow": Grid.flow(steps, shift=2.0),
    }


def pool_at(x: Tensor, path: Gaussian, pool) -> list[tuple[float, Tensor]]:
    """Exponents and exact noise predictions of (b, mixture) pairs."""
    return [
        (b, output_to_epsilon(x, law.score(x, path.alpha, path.sigma), *_level(path), "score"))
        for b, law in pool
    ]


def _level(path: Gaussian) -> tuple[float, float]:
    return path.alpha, path.sigma


def moments(x: Tensor) -> Tensor:
    """Test functions of points on the line (n,), shape (F, n); the first gives the normaliser."""
    waves = [f(k * x) for k in (1.0, 2.0) for f in (torch.sin, torch.cos)]
    return torch.stack([torch.ones_like(x), x / 3, x**2 / 9, *waves])


def quadrature(pool, tilt: Callable[[Tensor], Tensor], f=moments) -> Tensor:
    """Integrals of f times exp(tilt) times the product of (b, mixture) pairs, shape (F,)."""
    x = torch.linspace(-16, 16, 8001, dtype=torch.float64)
    log_p = sum(b * law.log_density(x[:, None]) for b, law in pool) + tilt(x)
    return f(x) @ log_p.exp() * (x[1] - x[0])


def backward(
    move: Move,
    grid: Grid,
    pool,
    tilt: Callable[[Tensor], Tensor],
    f: Callable[[Tensor], Tensor] = moments,
    start: float | None = None,
    points: int = 241,
) -> Tensor:
    """Expectations of weight times f of the chain's end, shape (F,).

    Arguments:
        move: `Correct(...).move` or a broken one.
        grid: The path.
        pool: (b, mixture) pairs on the line.
        tilt: Log-twist of the end.
        f: Test functions.
        start: Variance of the start over sigma^2, 1 / B by default.
        points: Points of each level's table of u, which cubic interpolation reads.
    """
    total = sum(b for b, _ in pool)
    nodes, weights = _hermite(7)

    def u(x: Tensor) -> Tensor:
        return f(x) * tilt(x).exp()

    paths = list(grid.transitions())
    for i in reversed(range(len(paths))):
        path, after = paths[i], u
        reach = 10 * path.alpha + 6.5 * path.sigma * max(1.0, total**-0.5, (start or 0) ** 0.5)
        x = torch.linspace(-reach, reach, points, dtype=torch.float64)
        before = paths[i - 1] if i else None
        step = move(x[:, None], path, pool_at(x[:, None], path, pool), before)
        ends = step.kernel.mean + step.kernel.std * nodes
        table = (after(ends.flatten()).reshape(-1, *ends.shape) @ weights) * step.d.exp()
        u = _interpolated(x, table)
    spread = paths[0].sigma * (1 / total if start is None else start) ** 0.5
    z = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    density = (-(z**2) / 2).exp()
    return u(spread * z) @ (density / density.sum())


def _hermite(count: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights for the standard normal law, by its Jacobi matrix."""
    off = torch.arange(1, count, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0] ** 2


def _interpolated(x: Tensor, table: Tensor) -> Callable[[Tensor], Tensor]:
    """Cubic interpolation of functions (F, n) on an even grid, its ends' cubics beyond it."""
    gap = float(x[1] - x[0])

    def u(at: Tensor) -> Tensor:
        at = at.clamp(x[0], x[-1])
        place = (at - x[0]) / gap
        left = place.floor().long().clamp(1, len(x) - 3)
        t = place - left
        basis = (
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        )
        return sum(weight * table[:, left + k - 1] for k, weight in enumerate(basis))

    return u


def product_log_z(pool, slopes: Tensor) -> Tensor:
    """log of the integral of exp(slope . x) times the product of (b, one Gaussian) pairs, (S,)."""
    precision, shift, constant = 0.0, slopes, 0.0
    for b, law in pool:
        inverse = torch.linalg.inv(law.covariances[0])
        mean = law.means[0]
        precision, shift = precision + b * inverse, shift + b * inverse @ mean
        constant += b * (torch.logdet(inverse / (2 * math.pi)) - mean @ inverse @ mean) / 2
    quadratic = (shift * torch.linalg.solve(precision, shift.T).T).sum(1)
    return constant + quadratic / 2 - torch.logdet(precision / (2 * math.pi)) / 2


def gaussian_log_z(move: Move, grid: Grid, pool, slopes: Tensor) -> Tensor:
    """log E[weight exp(slope . x)] of the discretised chain for slopes (S, d), in closed form.

    With Gaussian experts the move is affine and its increment quadratic, so that u stays
    exp(c + l . x + x . Q x / 2), with one Q for all slopes.
    """
    d = slopes.shape[1]
    eye = torch.eye(d, dtype=torch.float64)
    u = torch.zeros(len(slopes), dtype=torch.float64), slopes, 0 * eye
    probes = torch.cat([0 * eye[:1], eye, -eye, *(eye + row for row in eye)])
    paths = list(grid.transitions())
    for i in reversed(range(len(paths))):
        before = paths[i - 1] if i else None
        step = move(probes, paths[i], pool_at(probes, paths[i], pool), before)
        shift, turn = step.kernel.mean[0], (step.kernel.mean[1 : d + 1] - step.kernel.mean[0]).T
        zero, up, down = step.d[0], step.d[1 : d + 1], step.d[d + 1 : 2 * d + 1]
        curve = step.d[2 * d + 1 :].reshape(d, d) - up[:, None] - up + zero
        c, linear, q = _blurred(*u, step.kernel.std)
        c = c + linear @ shift + shift @ q @ shift / 2 + zero
        u = c, (linear + shift @ q) @ turn + (up - down) / 2, turn.T @ q @ turn + curve
    return _blurred(*u, paths[0].sigma * sum(b for b, _ in pool) ** -0.5)[0]


def _blurred(c: Tensor, linear: Tensor, q: Tensor, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """E[exp(c + l . y + y . Q y / 2)] over y ~ N(m, std^2), as a function of m."""
    eye = torch.eye(len(q), dtype=torch.float64)
    spread = std**2 * torch.linalg.inv(eye - std**2 * q)
    c = c + (linear @ spread * linear).sum(1) / 2 - torch.logdet(eye - std**2 * q) / 2
    return c, linear + linear @ spread @ q, q + q @ spread @ q

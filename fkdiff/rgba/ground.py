"""The background behind a subject, from the pixels that show nothing else."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["blurred", "fit_ground", "local_mean", "spread_behind"]


def blurred(x: Tensor, sd: float) -> Tensor:
    """Blurs maps (c, h, w) by a Gaussian of `sd` pixels, borders repeated."""
    radius = max(1, math.ceil(3 * sd))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.softmax(-(offsets**2) / (2 * sd**2), 0).expand(len(x), 1, 1, -1)
    rows = F.conv2d(F.pad(x[None], (radius, radius, 0, 0), "replicate"), kernel, groups=len(x))
    padded = F.pad(rows, (0, 0, radius, radius), "replicate")
    return F.conv2d(padded, kernel.transpose(2, 3), groups=len(x))[0]


def local_mean(x: Tensor, weight: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Weighted mean of x (c, h, w) near each pixel; wide scales where narrow ones see none.

    `weight` (h, w) says what counts, `scales` are standard deviations, narrowest first.
    """
    total, share = torch.zeros_like(x), torch.full_like(weight[None], 1e-12)
    for place, sd in enumerate(scales):
        trust = 1e-2**place
        total = total + trust * blurred(x * weight, sd)
        share = share + trust * blurred(weight[None], sd)
    return total / share


def fit_ground(image: Tensor, weight: Tensor, rounds: int = 8) -> Tensor:
    r"""A smooth background, (3, h, w): each channel a quadratic of place, fitted robustly.

    Weighted least squares on $1, x, y, x^2, xy, y^2$ with Cauchy weights, so that what the
    weights wrongly take for background doesn't pull.

    Arguments:
        image: (3, h, w).
        weight: Trust that a pixel shows the background alone, (h, w), not negative.
        rounds: Reweightings.

    Example:
        >>> plain = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 8, 8)
        >>> torch.allclose(fit_ground(plain, torch.ones(8, 8)), plain, atol=1e-5)
        True
    """
    height, width = image.shape[1:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float64),
        torch.linspace(-1, 1, width, dtype=torch.float64),
        indexing="ij",
    )
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)
    colours, trust = image.reshape(3, -1).T.double(), weight.reshape(-1).double()
    # A hint of a penalty on slopes and bends: a few pixels in a corner tell none.
    penalty = torch.diag(torch.tensor([0, 1, 1, 10, 10, 10.0], dtype=torch.float64)) * 1e-5
    now, ground = trust, colours
    for _ in range(rounds):
        weighted = (basis * now[:, None]).T / now.sum()
        ground = basis @ torch.linalg.solve(weighted @ basis + penalty, weighted @ colours)
        error = (colours - ground).square().sum(1)
        now = trust / (1 + error / max(3 * _median(error, trust), 1e-5))
    return ground.T.reshape(image.shape).to(image)


def spread_behind(image: Tensor, ground: Tensor, outside: Tensor, reach: int) -> Tensor:
    """The background behind every pixel, (3, h, w): the smooth one, and what is close by.

    `outside` (h, w) is where nothing else shows, `reach` the width of an edge in pixels.
    """
    if not outside.any():
        return ground
    return ground + local_mean(image - ground, outside.to(image), (1.5 * reach, 4.0 * reach))


def _median(values: Tensor, weight: Tensor) -> float:
    """Weighted median of every so-many-th value: a scale needs no more than 1,024."""
    every = max(1, len(values) // 1024)
    values, weight = values[::every], weight[::every]
    order = values.argsort()
    passed = weight[order].cumsum(0)
    return float(values[order][int((passed < passed[-1] / 2).sum())])

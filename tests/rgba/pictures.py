"""A subject with known alpha and colour on backgrounds that aren't always easy."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fkdiff.rgba.ground import blurred

__all__ = ["GROUNDS", "disc", "on", "rough"]

RED, BLUE = torch.tensor([0.85, 0.15, 0.1]), torch.tensor([0.1, 0.2, 0.8])


def disc(size: int = 48, radius: float = 14.0) -> Tensor:
    """Alpha of a disc off the centre, its edge a pixel wide, (size, size)."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 2, indexing="ij")
    away = torch.hypot(y - 0.45 * size, x - 0.55 * size)
    return (radius + 0.5 - away).clamp(0, 1)


def colour(size: int = 48) -> Tensor:
    """The subject's own colour, two halves, (3, size, size)."""
    left = torch.arange(size) < 0.55 * size
    return torch.where(left, RED[:, None, None], BLUE[:, None, None]).expand(3, size, size)


def _plain(size: int) -> Tensor:
    return torch.tensor([0.97, 0.95, 0.96])[:, None, None].expand(3, size, size)


def _gradient(size: int) -> Tensor:
    ramp = torch.linspace(0, 1, size)[:, None].expand(size, size)
    return torch.stack([0.2 + 0.6 * ramp, 0.9 - 0.3 * ramp, 0.4 + 0.2 * ramp])


def _textured(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    noise = blurred(torch.randn(1, size, size, generator=generator), 2.0)
    fine = 0.02 * torch.randn(3, size, size, generator=generator)
    base = torch.tensor([0.3, 0.65, 0.35])[:, None, None]
    return (base + 0.5 * noise + fine).clamp(0, 1)


GROUNDS = {"plain": _plain, "gradient": _gradient, "textured": _textured}


def on(kind: str, size: int = 48) -> Tensor:
    """The disc on a background, rounded to 8 bits, (3, size, size)."""
    alpha = disc(size)
    mixed = alpha * colour(size) + (1 - alpha) * GROUNDS[kind](size)
    return (255 * mixed).round() / 255


def rough(alpha: Tensor, cells: int = 8, noise: float = 0.1) -> Tensor:
    """What attention might tell of alpha: coarse, blurred, noisy, (cells, cells)."""
    drawn = noise * torch.randn(cells, cells, generator=torch.Generator().manual_seed(1))
    return (blurred(F.adaptive_avg_pool2d(alpha[None], cells), 0.7)[0] + drawn).clamp(0, 1)

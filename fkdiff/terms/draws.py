"""Draws of the clean sample from what a transition knows about it."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fkdiff.processes import Gaussian
from fkdiff.processes.tokens import TokenStep

__all__ = ["Draw", "draws_around"]

Draw: TypeAlias = Callable[[Tensor, Sequence[torch.Generator], int], Tensor]
"""(rows (U,), U generators, draws) -> draws of x0, shape (draws, U, *)."""


def draws_around(
    x0: Tensor, path: Gaussian | TokenStep | None, streams: Sequence[torch.Generator], draws: int
) -> Tensor:
    r"""Draws from $N(\hat x_0, \tau^2)$, $\tau^2 = \sigma^2 / (\alpha^2 + \sigma^2)$.

    Arguments:
        x0: Estimates, shape (U, *).
        path: Coefficients before the transition.
        streams: One generator a row.
        draws: How many of each.

    Returns:
        Shape (draws, U, *).

    Raises:
        ValueError: If the scheduler tells no coefficients.
    """
    if path is None:
        raise ValueError(f"draws must be 1 where the scheduler tells no noise level, got {draws}")
    tau = path.sigma / math.hypot(path.alpha, path.sigma)
    noise = torch.stack([torch.randn(draws, *x0.shape[1:], generator=g) for g in streams], dim=1)
    return x0 + tau * noise.to(x0)

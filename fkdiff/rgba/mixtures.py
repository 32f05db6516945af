"""Mixtures of Gaussians over colours, fitted to weighted pixels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Mixture", "grouped"]


@dataclass(frozen=True)
class Mixture:
    """A density of colours: K Gaussians.

    Arguments:
        means: (K, 3).
        factors: Cholesky factors of the covariances, (K, 3, 3).
        log_shares: (K,).
    """

    means: Tensor
    factors: Tensor
    log_shares: Tensor

    @classmethod
    def fitted(cls, x: Tensor, weight: Tensor, members: Tensor, floor: float) -> "Mixture":
        """The mixture that members (K, n) of colours (n, 3) with weights (n,) make.

        Arguments:
            x: Colours.
            weight: What counts.
            members: Share of each Gaussian in each colour.
            floor: Least standard deviation.
        """
        mass = members * weight
        total = mass.sum(1) + 1e-6
        means = mass @ x / total[:, None]
        away = x - means[:, None]
        spread = torch.einsum("kn,kni,knj->kij", mass, away, away) / total[:, None, None]
        factors = torch.linalg.cholesky(spread + floor**2 * torch.eye(3).to(x))
        return cls(means, factors, (total / total.sum()).log())

    def log_parts(self, x: Tensor) -> Tensor:
        """Log-density of each Gaussian times its share at colours (n, 3), shape (K, n)."""
        away = (x - self.means[:, None]).transpose(1, 2)
        scaled = torch.linalg.solve_triangular(self.factors, away, upper=False)
        volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.log_shares - volume - 1.5 * math.log(2 * math.pi)
        return constant[:, None] - scaled.square().sum(1) / 2


def grouped(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """Colours (n, 3) in so many groups by k-means, as members (count, n) of 0 and 1.

    Starts are drawn far from each other from a stream of their own: the same colours, the same
    groups.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [int(torch.multinomial(weight.cpu(), 1, generator=generator))]
    for _ in range(count - 1):
        far = torch.cdist(x, x[drawn]).min(1).values.square() * weight + 1e-12
        drawn.append(int(torch.multinomial(far.cpu(), 1, generator=generator)))
    centres, members = x[drawn], torch.zeros(count, len(x)).to(x)
    for _ in range(8):
        nearest = torch.cdist(x, centres).argmin(1)
        members = torch.nn.functional.one_hot(nearest, count).T.to(x)
        mass = members * weight
        total = mass.sum(1, keepdim=True)
        centres = torch.where(total > 1e-6, mass @ x / total.clamp(min=1e-6), centres)
    return members

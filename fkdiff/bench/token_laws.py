"""Laws of short token sequences with all outcomes enumerated, and their exact denoisers."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["TokenLaw"]


@dataclass(frozen=True)
class TokenLaw:
    """A random law of sequences of `length` tokens over `letters` letters; the mask is `letters`.

    Example:
        >>> law = TokenLaw(0, letters=2, length=2)
        >>> law.outcomes.tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> law.denoiser(torch.tensor([[2, 0]]), 0.5).exp()[0, 1].tolist()
        [1.0, 0.0]
    """

    seed: int  # of Dirichlet(1/2) weights, a tenth of them uniform
    letters: int = 3
    length: int = 4

    @cached_property
    def outcomes(self) -> Tensor:
        """All sequences, shape (V^L, L)."""
        return self._sequences(self.letters)

    @cached_property
    def states(self) -> Tensor:
        """All sequences with masks, shape ((V + 1)^L, L)."""
        return self._sequences(self.letters + 1)

    @cached_property
    def mass(self) -> Tensor:
        """Probabilities of the outcomes, float64."""
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(len(self.outcomes), generator=generator, dtype=torch.float64)
        half = normal.square() / 2  # Gamma(1/2)
        return 0.9 * half / half.sum() + 0.1 / len(half)

    @cached_property
    def posteriors(self) -> Tensor:
        """Probabilities of each position's letter given the uncovered ones, (states, L, V)."""
        fits = (self.states[:, None] == self.letters) | (self.states[:, None] == self.outcomes)
        weight = self.mass * fits.all(-1)
        hot = (self.outcomes[..., None] == torch.arange(self.letters)).double()
        return torch.einsum("so,olv->slv", weight, hot) / weight.sum(1)[:, None, None]

    def denoiser(self, tokens: Tensor, alpha: float) -> Tensor:
        """Exact log-probabilities of the clean tokens, (n, L, V), for a masked path."""
        return self.posteriors[self._number(tokens, self.letters + 1)].log()

    def index(self, tokens: Tensor) -> Tensor:
        """Number of each outcome (..., L) among `outcomes`."""
        return self._number(tokens, self.letters)

    def histogram(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Weight of each outcome, for tokens (n, L) and weights (n,)."""
        empty = torch.zeros(len(self.outcomes), dtype=torch.float64)
        return empty.index_add(0, self.index(tokens), weights.double())

    def _sequences(self, letters: int) -> Tensor:
        return torch.tensor(list(itertools.product(range(letters), repeat=self.length)))

    def _number(self, tokens: Tensor, letters: int) -> Tensor:
        """Place of each sequence (..., L) in `_sequences(letters)`."""
        return (tokens * letters ** torch.arange(self.length - 1, -1, -1)).sum(-1)

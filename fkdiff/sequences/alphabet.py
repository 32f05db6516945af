"""Alphabets: which letters a sequence may hold, and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fkdiff.files import text_of

__all__ = ["ALPHABETS", "Alphabet", "one_hot", "padded", "tokens_of"]

ALPHABETS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT", "rna": "ACGU"}
"""Letters of the named alphabets."""


@dataclass(frozen=True)
class Alphabet:
    """An ordered set of letters; token k is the k-th letter.

    Arguments:
        letters: At least two different printable characters other than white space, ">" and "-";
            letters of both cases are different only if the alphabet holds both.

    Raises:
        ValueError: If a letter is missing, repeated or unusable.

    Example:
        >>> dna = Alphabet.named("dna")
        >>> dna.encode("GATTACA")
        tensor([2, 0, 3, 3, 0, 1, 0])
        >>> dna.decode(dna.encode("GATTACA"))
        'GATTACA'
    """

    letters: str

    def __post_init__(self) -> None:
        twice = sorted({c for c in self.letters if self.letters.count(c) > 1})
        if len(self.letters) < 2 or twice:
            told = f"{twice[0]!r} twice" if twice else repr(self.letters)
            raise ValueError(f"alphabet must hold at least two different letters, got {told}")
        bad = [c for c in self.letters if c in ">-" or c.isspace() or not c.isprintable()]
        if bad:
            raise ValueError(
                f"alphabet must hold printable letters, no '>' or '-', got {bad[0]!r}"
            )

    @classmethod
    def named(cls, name: str | Path) -> "Alphabet":
        """An alphabet by name ("protein", "dna", "rna") or from a text file of its letters.

        Raises:
            ValueError: If it is neither a name nor a readable file, or the file's letters are bad.
        """
        if str(name) in ALPHABETS:
            return cls(ALPHABETS[str(name)])
        try:
            text = text_of(Path(name), 2**20)
        except (OSError, ValueError) as error:
            known = ", ".join(ALPHABETS)
            raise ValueError(
                f"alphabet must be one of {known} or a text file of letters, got {str(name)!r} "
                f"({type(error).__name__})"
            ) from None
        return cls("".join(text.split()))

    def __len__(self) -> int:
        """Number of letters, K."""
        return len(self.letters)

    def fold(self, text: str) -> str:
        """The text in capitals, where the alphabet holds no small letters."""
        return text if any(c.islower() for c in self.letters) else text.upper()

    def encode(self, text: str) -> Tensor:
        """Tokens of a text, shape (L,), int64.

        Raises:
            ValueError: If a letter isn't of the alphabet; its place is counted from 1.
        """
        numbers = {letter: k for k, letter in enumerate(self.letters)}
        folded = self.fold(text)
        for place, letter in enumerate(folded, 1):
            if letter not in numbers:
                raise ValueError(
                    f"sequence must hold letters of {self.letters}, got {letter!r} at {place}"
                )
        return torch.tensor([numbers[letter] for letter in folded], dtype=torch.int64)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Text of tokens (L,); negative numbers, which mark padding, are left out."""
        numbers = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        return "".join(self.letters[k] for k in numbers if k >= 0)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Token rows of different lengths as one tensor (n, L), int64, -1 behind their ends.

    >>> padded([torch.tensor([1, 2]), torch.tensor([3])])
    tensor([[ 1,  2],
            [ 3, -1]])
    """
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-1)


def one_hot(tokens: Tensor, categories: int) -> Tensor:
    """Tokens (n, L) as vertices of the simplex (n, L, K), float32; padding is all zeros.

    >>> one_hot(torch.tensor([[1, -1]]), 2)
    tensor([[[0., 1.],
             [0., 0.]]])
    """
    return (tokens[..., None] == torch.arange(categories, device=tokens.device)).float()


def tokens_of(points: Tensor) -> Tensor:
    """Likeliest tokens (n, L) of points of the simplex (n, L, K); -1 where all is zero.

    >>> tokens_of(one_hot(torch.tensor([[1, -1]]), 2))
    tensor([[ 1, -1]])
    """
    return torch.where(points.sum(-1) > 0, points.argmax(-1), -1)

"""Rules on texts: regular expressions, lengths, motifs. No network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fkdiff.rewards.plain import Plain
from fkdiff.terms.reward_function import RewardError

__all__ = ["MotifPresence", "Pattern", "TextLength"]


@dataclass(frozen=True, eq=False, repr=False)
class _Rule(Plain):
    inputs = "text"
    differentiable = False

    def value(self, text: str) -> float:
        """Value of one text."""
        raise NotImplementedError

    def values(self, samples: Sequence[str]) -> Tensor:
        """Values of n texts, shape (n,), float64."""
        return torch.tensor([self.value(text) for text in samples], dtype=torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
class Pattern(_Rule):
    """1 where a regular expression is found in the text, else 0; or -inf, as a hard constraint.

    Arguments:
        pattern: Regular expression of Python's `re`.
        must: Give texts without it -inf: they never come out.

    Raises:
        RewardError: If the pattern can't be read.

    Example:
        >>> Pattern("N[^P][ST]")(["ANGS", "ANPS"]).tolist()
        [1.0, 0.0]
    """

    pattern: str
    must: bool = False

    name = "pattern"
    argument = "REGEX"

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise RewardError(
                f"pattern must be a regular expression, got {self.pattern!r}: {error}"
            ) from None

    def value(self, text: str) -> float:
        """1 or what stands for absence."""
        if re.search(self.pattern, text):
            return 1.0
        return -torch.inf if self.must else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class TextLength(_Rule):
    """0 where the length is within bounds, else minus the distance to them.

    Arguments:
        bounds: Least and greatest length as "LOW-HIGH", or one number for both.
        unit: "characters" or "words".

    Raises:
        RewardError: If the bounds can't be read.

    Example:
        >>> TextLength("2-3")(["a", "abc", "abcdef"]).tolist()
        [-1.0, 0.0, -3.0]
    """

    bounds: str
    unit: str = "characters"

    name = "length"
    argument = "LOW-HIGH"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+(-\d+)?", str(self.bounds)) or self._pair[0] > self._pair[1]:
            raise RewardError(f"bounds must be LOW-HIGH, such as 8-12, got {self.bounds!r}")
        if self.unit not in ("characters", "words"):
            raise RewardError(f"unit must be characters or words, got {self.unit!r}")

    @property
    def _pair(self) -> tuple[int, int]:
        low, _, high = str(self.bounds).partition("-")
        return int(low), int(high or low)

    def value(self, text: str) -> float:
        """Minus the distance, a number that isn't positive."""
        (low, high), found = self._pair, len(text.split() if self.unit == "words" else text)
        return float(min(found - low, 0) + min(high - found, 0))


@dataclass(frozen=True, eq=False, repr=False)
class MotifPresence(_Rule):
    """Share of a motif's letters at the place where it fits best; 1 where it is there.

    A soft version of presence: steering needs to see that a motif is nearly there.

    Arguments:
        motif: Letters; "." fits any.

    Raises:
        RewardError: If the motif has no letters.

    Example:
        >>> MotifPresence("RGD")(["AARGDA", "AARGAA", "A"]).tolist()
        [1.0, 0.6666666666666666, 0.0]
    """

    motif: str

    name = "motif"
    argument = "LETTERS"

    def __post_init__(self) -> None:
        if not self.motif.replace(".", ""):
            raise RewardError(f"motif must hold letters, got {self.motif!r}")

    def value(self, text: str) -> float:
        """Best share of matching letters."""
        places = [(i, c) for i, c in enumerate(self.motif) if c != "."]
        starts = range(len(text) - len(self.motif) + 1)
        fits = [sum(text[start + i] == c for i, c in places) for start in starts]
        return max(fits, default=0) / len(places)

"""Properties of protein sequences by Biopython (extra `proteins`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fkdiff.rewards.plain import Plain
from fkdiff.terms.reward_function import RewardError

__all__ = ["ProteinProperty"]

_PROPERTIES: Mapping[str, Callable[[Any], float]] = MappingProxyType(
    {
        "charge": lambda protein: protein.charge_at_pH(7.0),
        "hydrophobicity": lambda protein: protein.gravy(),
        "isoelectric-point": lambda protein: protein.isoelectric_point(),
    }
)


@dataclass(frozen=True, eq=False, repr=False)
class ProteinProperty(Plain):
    r"""A property of a protein sequence: a number for each text of amino acids.

    ==================  ==================================================
    charge              net charge at pH 7, in elementary charges
    hydrophobicity      mean hydropathy of Kyte and Doolittle (GRAVY)
    isoelectric-point   pH at which the net charge is 0
    ==================  ==================================================

    Letters other than the 20 amino acids are left out; a text without any has -inf. Natural
    constants: mean 0 and sd 1, unless stated.

    Arguments:
        quantity: One of the names above.
        mean: Stated mean.
        sd: Stated standard deviation, positive.

    Raises:
        RewardError: If there is no such property; at the first call, if Biopython isn't
            installed.

    References:
        | A simple method for displaying the hydropathic character of a protein
        | (Kyte & Doolittle, 1982)

    Example:
        >>> ProteinProperty("charge")(["KKRR", "DDEE"]).sign().tolist()
        [1.0, -1.0]
    """

    quantity: str = "charge"
    mean: float = 0.0
    sd: float = 1.0

    inputs = "text"
    differentiable = False
    argument = "QUANTITY"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantity not in _PROPERTIES:
            known = ", ".join(_PROPERTIES)
            raise RewardError(f"quantity must be one of {known}, got {self.quantity!r}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The property."""
        return self.quantity

    def values(self, samples: Sequence[str]) -> Tensor:
        """The property of n texts, shape (n,), float64."""
        try:
            from Bio.SeqUtils.ProtParam import ProteinAnalysis
        except ImportError as error:
            raise RewardError(
                f"reward {self.name!r} needs biopython ({error}); "
                f"try: pip install 'fkdiff[proteins]'"
            ) from error
        values = []
        for text in samples:
            letters = "".join(c for c in text.upper() if c in "ACDEFGHIKLMNPQRSTVWY")
            measured = _PROPERTIES[self.quantity]
            values.append(measured(ProteinAnalysis(letters)) if letters else -torch.inf)
        return torch.tensor(values, dtype=torch.float64)

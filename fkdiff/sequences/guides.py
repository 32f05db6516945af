"""Guides: small differentiable judges of clean sequences, in torch, kept beside a flow.

A guide maps one-hot sequences (n, L, K), zero at padding, to log-odds (n,) between -5 and 5.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.files import with_sorted_metadata, write_whole
from fkdiff.sequences.alphabet import Alphabet
from fkdiff.terms.reward import as_reward
from fkdiff.terms.reward_algebra import Composable

__all__ = [
    "ConvGuide",
    "DescriptorGuide",
    "Hemolysis",
    "check_alphabet",
    "load_guides",
    "save_guide",
]

CERTAIN = 5.0
"""Log-odds that no sequence exceeds: nothing is gained by being absurdly certain."""


class ConvGuide(nn.Module):
    """Two convolutions, masked mean and maximum, log-odds of a class.

    Arguments:
        alphabet: Letters that it reads.
        width: Channels.

    Example:
        >>> guide = ConvGuide("ACGT", width=8).eval()
        >>> x = torch.eye(4)[None]
        >>> longer = torch.cat([x, torch.zeros(1, 3, 4)], 1)  # padding changes nothing
        >>> guide(x).shape, torch.allclose(guide(x), guide(longer))
        (torch.Size([1]), True)
    """

    kind = "conv"

    def __init__(self, alphabet: str, width: int = 48) -> None:
        super().__init__()
        self.alphabet = alphabet
        self.first = nn.Conv1d(len(alphabet), width, 5, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, simplex: Tensor) -> Tensor:
        """Log-odds, shape (n,)."""
        mask = _mask(simplex).transpose(1, 2)
        h = simplex.transpose(1, 2)
        for layer in (self.first, self.second):
            h = F.gelu(layer(h)) * mask
        mean = h.sum(2) / mask.sum(2).clamp(min=1)
        top = (h - 1e4 * (1 - mask)).amax(2)
        return _bounded(self.head(torch.cat([mean, top], 1))[:, 0])


class DescriptorGuide(nn.Module):
    r"""Log-odds of a class of peptides from descriptors of the whole sequence.

    Shares of the 20 residues, helical and strand moments $|\sum_l (h_l - \bar h) e^{i \theta l}| /
    L$ for $\theta$ = 100, 160 and 180 degrees on the Eisenberg consensus scale, mean
    hydrophobicity, net charge per residue and length, into a perceptron. A convolution gives in to
    motifs that no peptide has; sums over a sequence leave a guided flow fewer such ways out.

    Arguments:
        alphabet: The 20 amino acids, in any order.
        width: Hidden units.

    Raises:
        ValueError: If the alphabet is another.

    References:
        | Analysis of membrane and surface protein sequences with the hydrophobic moment plot
        | (Eisenberg et al., 1984), doi 10.1016/0022-2836(84)90309-7

    Example:
        >>> guide = DescriptorGuide(width=8).eval()
        >>> x = torch.eye(20)[None]
        >>> longer = torch.cat([x, torch.zeros(1, 3, 20)], 1)  # padding changes nothing
        >>> torch.allclose(guide(x), guide(longer), atol=1e-5)
        True
    """

    kind = "descriptors"
    degrees = (100, 160, 180)

    def __init__(self, alphabet: str = "ACDEFGHIKLMNPQRSTVWY", width: int = 64) -> None:
        super().__init__()
        self.alphabet = _amino_acids(alphabet)
        hydrophobicity, charge = _scales(alphabet)
        self.register_buffer("hydrophobicity", hydrophobicity)
        self.register_buffer("charge", charge)
        count = len(alphabet) + len(self.degrees) + 3
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))
        self.head = nn.Sequential(nn.Linear(count, width), nn.GELU(), nn.Linear(width, 1))

    def features(self, simplex: Tensor) -> Tensor:
        """Descriptors of each sequence, shape (n, 26)."""
        mask = _mask(simplex)[..., 0]
        length = mask.sum(1, keepdim=True).clamp(min=1)
        h = simplex @ self.get_buffer("hydrophobicity")
        mean = h.sum(1, keepdim=True) / length
        moments = [
            _moment((h - mean) * mask, degrees)[:, None] / length for degrees in self.degrees
        ]
        charge = (simplex @ self.get_buffer("charge")).sum(1, keepdim=True) / length
        return torch.cat([simplex.sum(1) / length, *moments, mean, charge, length / 50], 1)

    def standardise(self, simplex: Tensor) -> None:
        """Take centre and spread of the descriptors from reference sequences."""
        features = self.features(simplex)
        self.get_buffer("centre").copy_(features.mean(0))
        self.get_buffer("spread").copy_(features.std(0))

    def forward(self, simplex: Tensor) -> Tensor:
        """Log-odds, shape (n,)."""
        scores = (self.features(simplex) - self.get_buffer("centre")) / self.get_buffer("spread")
        return _bounded(self.head(scores.clamp(-4, 4))[:, 0])


class Hemolysis(nn.Module):
    r"""Proxy of hemolysis: amphipathic, hydrophobic and cationic peptides break red cells.

    The sum of three z-scores over reference peptides: hydrophobic moment of a helix,
    $\mu = |\sum_l h_l e^{i\,100^\circ l}| / L$, mean hydrophobicity $\sum_l h_l / L$ on the
    Eisenberg consensus scale, and net charge per residue. Nothing is fitted to hemolysis data: a
    rule of thumb, to be judged by others.

    Arguments:
        alphabet: The 20 amino acids, in any order.

    References:
        | Analysis of membrane and surface protein sequences with the hydrophobic moment plot
        | (Eisenberg et al., 1984), doi 10.1016/0022-2836(84)90309-7
    """

    kind = "hemolysis"

    def __init__(self, alphabet: str = "ACDEFGHIKLMNPQRSTVWY") -> None:
        super().__init__()
        self.alphabet = _amino_acids(alphabet)
        hydrophobicity, charge = _scales(alphabet)
        self.register_buffer("hydrophobicity", hydrophobicity)
        self.register_buffer("charge", charge)
        self.register_buffer("centre", torch.zeros(3))
        self.register_buffer("spread", torch.ones(3))

    def features(self, simplex: Tensor) -> Tensor:
        """Moment, hydrophobicity and charge of each residue on average, shape (n, 3)."""
        length = _mask(simplex).sum((1, 2)).clamp(min=1)
        h = simplex @ self.get_buffer("hydrophobicity")
        charge = (simplex @ self.get_buffer("charge")).sum(1)
        return torch.stack([_moment(h, 100), h.sum(1), charge], 1) / length[:, None]

    def forward(self, simplex: Tensor) -> Tensor:
        """Log-odds, shape (n,)."""
        scores = (self.features(simplex) - self.get_buffer("centre")) / self.get_buffer("spread")
        return _bounded(scores.sum(1))


def save_guide(
    guide: ConvGuide | DescriptorGuide | Hemolysis, file: Path, mean: float, sd: float
) -> None:
    """Write a guide as one fp16 safetensors file.

    Arguments:
        guide: The guide.
        file: Where; its stem is the guide's name.
        mean: Mean of its log-odds over reference sequences.
        sd: Their standard deviation.
    """
    about = {"kind": guide.kind, "alphabet": guide.alphabet, "mean": f"{mean}", "sd": f"{sd}"}
    tensors = {name: value.half().contiguous() for name, value in guide.state_dict().items()}
    write_whole(file, with_sorted_metadata(save(tensors, about)))


def load_guides(folder: str | Path) -> dict[str, Composable]:
    """Guides of a folder of a flow, as differentiable rewards by name.

    Arguments:
        folder: Folder that `save_pretrained` wrote; its subfolder `guides` is looked into.

    Returns:
        Rewards of kind "simplex", calibrated by their files; empty if there are none.

    Raises:
        ValueError: If a file isn't a guide.
    """
    files = sorted((Path(folder) / "guides").glob("*.safetensors"))
    return {file.stem: _load(file) for file in files}


def _load(file: Path) -> Composable:
    with safe_open(file, "pt") as stored:
        about = stored.metadata() or {}
        tensors = {key: stored.get_tensor(key).float() for key in stored.keys()}  # noqa: SIM118
    if about.get("kind") == "conv":
        guide: nn.Module = ConvGuide(about["alphabet"], len(tensors["first.bias"]))
    elif about.get("kind") == "descriptors":
        guide = DescriptorGuide(about["alphabet"], len(tensors["head.0.bias"]))
    elif about.get("kind") == "hemolysis":
        guide = Hemolysis(about["alphabet"])
    else:
        raise ValueError(
            f"{file.name} must be a guide of kind conv, descriptors or hemolysis, got {about!r}"
        )
    guide.load_state_dict(tensors)
    guide.eval().requires_grad_(False)
    return as_reward(
        guide,
        name=file.stem,
        inputs="simplex",
        mean=float(about["mean"]),
        sd=float(about["sd"]),
        differentiable=True,
    )


def check_alphabet(reward: Any, alphabet: Alphabet) -> None:
    """Refuse a reward that has a guide of another alphabet among its parts.

    Raises:
        ValueError: Names guide and alphabets.
    """
    for leaf in getattr(reward, "leaves", (reward,)):
        letters = getattr(getattr(leaf, "fn", leaf), "alphabet", None)
        if letters is not None and letters != alphabet.letters:
            raise ValueError(
                f"guide {leaf.name!r} must read the flow's letters {alphabet.letters}, "
                f"it reads {letters}; train one on the same alphabet, in the same order"
            )


def _mask(simplex: Tensor) -> Tensor:
    """1 where there is a position, shape (n, L, 1)."""
    return (simplex.detach().sum(-1, keepdim=True) > 0.5).to(simplex)


def _moment(h: Tensor, degrees: float) -> Tensor:
    """Length of the sum of h (n, L), turned by so many degrees a residue, shape (n,)."""
    angle = math.radians(degrees) * torch.arange(h.shape[1], device=h.device)
    return ((h @ angle.cos()).square() + (h @ angle.sin()).square() + 1e-6).sqrt()


def _amino_acids(alphabet: str) -> str:
    if set(_EISENBERG) ^ set(alphabet):
        raise ValueError(f"alphabet must be the 20 amino acids, got {alphabet!r}")
    return alphabet


def _scales(alphabet: str) -> tuple[Tensor, Tensor]:
    """Hydrophobicity and charge of each letter, shapes (20,)."""
    return (
        torch.tensor([_EISENBERG[c] for c in alphabet]),
        torch.tensor([_CHARGE.get(c, 0.0) for c in alphabet]),
    )


def _bounded(values: Tensor) -> Tensor:
    return CERTAIN * torch.tanh(values / CERTAIN)


_CHARGE = {"K": 1.0, "R": 1.0, "D": -1.0, "E": -1.0}
# Normalised consensus hydrophobicity scale (Eisenberg et al., 1984).
_EISENBERG = {
    "A": 0.25, "R": -1.76, "N": -0.64, "D": -0.72, "C": 0.04, "Q": -0.69, "E": -0.62,
    "G": 0.16, "H": -0.40, "I": 0.73, "L": 0.53, "K": -1.10, "M": 0.26, "F": 0.61,
    "P": -0.07, "S": -0.26, "T": -0.18, "W": 0.37, "Y": 0.02, "V": 0.54,
}  # fmt: skip

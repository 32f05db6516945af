"""Motifs of transcription factors as differentiable rewards on DNA: JASPAR count matrices."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fkdiff.files import text_of
from fkdiff.terms.reward_algebra import Composable

__all__ = ["Motif", "read_jaspar"]


@dataclass(frozen=True, eq=False)
class Motif(Composable):
    r"""How well a sequence holds a motif: soft maximum of log-odds over all places.

    $$r(h) = \log \frac{1}{S} \sum_s \exp \sum_{j < w} \sum_k h_{s + j, k}
    \log \frac{p_{jk}}{q_k}$$

    with $p_{jk} = (c_{jk} + q_k b) / (\sum_k c_{jk} + b)$ from counts c, pseudocount b and
    background q: log of the likelihood ratio of "one site somewhere" to "background alone", where
    S counts the places. Sequences shorter than the motif score $-\infty$.

    Arguments:
        name: Name in reports.
        counts: Position frequency matrix, shape (w, 4), not negative, letters ACGT.
        alphabet: "ACGT", or "ACGU" for RNA.
        background: Frequencies of the letters, positive, sum 1.
        pseudocount: b, positive.
        both_strands: Whether the reverse complement counts as well.

    Raises:
        ValueError: If the matrix is not of that form.

    References:
        | JASPAR: an open-access database for eukaryotic transcription factor binding profiles
        | (Sandelin et al., 2004), doi 10.1093/nar/gkh012

    Example:
        >>> motif = Motif("TATA", torch.tensor([[0, 0, 0, 9.0], [9.0, 0, 0, 0]]))
        >>> from fkdiff.sequences import Alphabet, one_hot, padded
        >>> rows = padded([Alphabet("ACGT").encode(s) for s in ("GGTAGG", "GGGGGG")])
        >>> good, bad = motif(one_hot(rows, 4)).tolist()
        >>> good > 0 > bad
        True
    """

    name: str
    counts: Tensor
    alphabet: str = "ACGT"
    background: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    pseudocount: float = 1.0
    both_strands: bool = False
    inputs: str = "simplex"
    differentiable: bool = True
    mean: float = 0.0
    sd: float = 1.0

    pure = True

    def __post_init__(self) -> None:
        counts = self.counts
        if counts.ndim != 2 or counts.shape[1] != 4 or not len(counts):
            raise ValueError(f"counts must have shape (w, 4), got {tuple(counts.shape)}")
        if not bool((counts >= 0).all()) or not bool((counts.sum(1) > 0).all()):
            raise ValueError("counts must not be negative, with one positive at each position")
        if self.alphabet not in ("ACGT", "ACGU"):
            raise ValueError(f"alphabet must be ACGT or ACGU, got {self.alphabet!r}")
        sums = math.isclose(sum(self.background), 1.0, abs_tol=1e-6)
        if len(self.background) != 4 or min(self.background) <= 0 or not sums:
            raise ValueError(f"background must be 4 positive shares, got {self.background}")
        if not self.pseudocount > 0:
            raise ValueError(f"pseudocount must be positive, got {self.pseudocount}")

    @property
    def log_odds(self) -> Tensor:
        """Weights of the motif, shape (w, 4)."""
        q = torch.tensor(self.background)
        total = self.counts.sum(1, keepdim=True) + self.pseudocount
        return ((self.counts + self.pseudocount * q) / total / q).log()

    def __call__(self, samples: Tensor, **context: Any) -> Tensor:
        """Values of points of the simplex (n, L, 4), shape (n,)."""
        kernels = [self.log_odds]
        if self.both_strands:
            kernels.append(self.log_odds.flip(0, 1))  # ACGT read backwards is its complement
        weight = torch.stack(kernels).transpose(1, 2).to(samples)
        width = len(self.counts)
        if samples.shape[1] < width:
            return samples.sum((1, 2)) * 0 - math.inf
        scores = F.conv1d(samples.transpose(1, 2), weight)
        length = (samples.detach().sum(-1) > 0.5).sum(1)
        last = length - width
        inside = torch.arange(scores.shape[2], device=samples.device) <= last[:, None]
        scores = scores.masked_fill(~inside[:, None], -math.inf).flatten(1)
        places = (last + 1).clamp(min=1) * len(kernels)
        short = last < 0
        best = scores.masked_fill(short[:, None], 0.0).logsumexp(1) - places.log()
        return torch.where(short, best * 0 - math.inf, best)


def read_jaspar(path: str | Path, alphabet: str = "ACGT") -> list[Motif]:
    """Motifs of a file in JASPAR's text format.

    A header `>ID NAME`, then four rows `A [ 3 0 12 ]` to `T [ ... ]` of equally many counts;
    letters and brackets may be left out, the rows are then A, C, G, T.

    Arguments:
        path: Text file.
        alphabet: "ACGT" or "ACGU".

    Raises:
        ValueError: Names file, motif and fault.
        OSError: If it can't be read.

    Example:
        >>> import tempfile; file = Path(tempfile.mkdtemp()) / "tbp.jaspar"
        >>> rows = ["A [0 9]", "C [0 0]", "G [0 0]", "T [9 0]"]
        >>> _ = file.write_text(chr(10).join([">MA0.1 TA", *rows]))
        >>> read_jaspar(file)[0].name
        'TA'
    """
    path = Path(path)
    text = text_of(path)
    blocks = [block for block in re.split(r"^>", text, flags=re.MULTILINE)[1:] if block.strip()]
    if not blocks:
        raise ValueError(f"{path.name} holds no motif; each begins with a header '>ID NAME'")
    return [_motif(block, path.name, alphabet) for block in blocks]


def _motif(block: str, file: str, alphabet: str) -> Motif:
    header, *lines = [line for line in block.splitlines() if line.strip()]
    words = header.split()
    name = words[-1] if words else "motif"
    rows: dict[str, list[float]] = {}
    for order, line in enumerate(lines):
        match = re.fullmatch(r"\s*([ACGTU])?\s*\[?([^\[\]]*)\]?\s*", line, flags=re.IGNORECASE)
        letter = "ACGT"[order % 4] if match is None or not match[1] else match[1].upper()
        try:
            rows[letter.replace("U", "T")] = [
                float(word) for word in (match or [""] * 3)[2].split()
            ]
        except ValueError:
            raise ValueError(f"{file}, motif {name}: {line.strip()!r} holds no counts") from None
    widths = {len(row) for row in rows.values()}
    if len(lines) != 4 or set(rows) != set("ACGT") or len(widths) != 1 or widths == {0}:
        raise ValueError(f"{file}, motif {name}: needs four rows A, C, G, T of equal length")
    counts = torch.tensor([rows[letter] for letter in "ACGT"]).T
    return Motif(name, counts, alphabet)

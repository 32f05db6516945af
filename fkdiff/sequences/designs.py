"""Finished designs: properties, doubles, novelty, and the files that hold them."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.sequences.alphabet import Alphabet, one_hot, padded
from fkdiff.sequences.fasta import fasta_text
from fkdiff.terms.reward import Reward, evaluate

__all__ = ["Designs", "diversity", "edit_distances", "judged", "nearest"]


@dataclass(frozen=True)
class Designs:
    """Sequences with what is known of each.

    Arguments:
        sequences: Texts, at least one.
        properties: By name, one number each.
        known: Sequences of the training set.

    Example:
        >>> designs = Designs(["ACG", "ACG", "TTT"], {"gc": [1.0, 1.0, 0.0]}, ["TTT"])
        >>> designs.summary()["duplicates"], designs.summary()["in training set"]
        (1, 1)
    """

    sequences: Sequence[str]
    properties: Mapping[str, Sequence[float]]
    known: Sequence[str] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One row a design: name, sequence, properties, whether it is a double or known."""
        seen: set[str] = set()
        known, rows = set(self.known), []
        distance = nearest(self.sequences, self.known) if self.known else None
        for i, sequence in enumerate(self.sequences):
            row: dict[str, Any] = {"name": f"design{i + 1}", "length": len(sequence)}
            row |= {name: float(values[i]) for name, values in self.properties.items()}
            row["duplicate"] = "yes" if sequence in seen else "no"
            if distance is not None:
                row["known"] = "yes" if sequence in known else "no"
                row["nearest"] = round(float(distance[i]), 3)
            seen.add(sequence)
            rows.append({**row, "sequence": sequence})
        return rows

    def fasta(self) -> str:
        """FASTA with the properties in the headers."""
        told = [
            (row["name"], {k: row[k] for k in (*self.properties, "duplicate")}, row["sequence"])
            for row in self.rows()
        ]
        return fasta_text(told)

    def csv(self) -> str:
        """The rows as CSV."""
        rows, file = self.rows(), io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def summary(self) -> dict[str, Any]:
        """Counts and means over the designs."""
        told: dict[str, Any] = {
            f"mean {name}": round(sum(map(float, values)) / len(values), 4)
            for name, values in self.properties.items()
        }
        told["designs"] = len(self.sequences)
        told["duplicates"] = len(self.sequences) - len(set(self.sequences))
        told["diversity"] = round(diversity(self.sequences), 4)
        if self.known:
            known = set(self.known)
            told["in training set"] = sum(sequence in known for sequence in self.sequences)
            distance = nearest(self.sequences, self.known)
            told["novelty"] = round(float(distance.mean()), 4)
        return told


def judged(
    rewards: Mapping[str, Reward], sequences: Sequence[str], alphabet: Alphabet
) -> dict[str, list[float]]:
    """Values of rewards of kind simplex, tokens or text for finished sequences."""
    tokens = padded([alphabet.encode(sequence) for sequence in sequences])
    forms: dict[str, Any] = {
        "simplex": one_hot(tokens, len(alphabet)),
        "tokens": tokens,
        "text": list(sequences),
    }
    with torch.no_grad():
        return {
            name: evaluate(reward, forms[reward.inputs]).tolist()
            for name, reward in rewards.items()
        }


def edit_distances(a: Sequence[str], b: Sequence[str]) -> Tensor:
    """Levenshtein distances of all pairs, shape (len(a), len(b)), int64.

    >>> edit_distances(["kitten", ""], ["sitting"]).tolist()
    [[3], [7]]
    """
    width = max((len(text) for text in b), default=0)
    codes = np.zeros((len(b), width), dtype=np.int32)
    for i, text in enumerate(b):
        codes[i, : len(text)] = [ord(c) for c in text]
    ends, ramp = np.array([len(text) for text in b]), np.arange(width + 1)
    table = np.empty((len(a), len(b)), dtype=np.int64)
    for i, text in enumerate(a):
        row = np.broadcast_to(ramp, (len(b), width + 1))
        for place, letter in enumerate(text, 1):
            swap = row[:, :-1] + (codes != ord(letter))
            best = np.minimum(row[:, 1:] + 1, swap)
            best = np.concatenate([np.full((len(b), 1), place), best], 1)
            # Insertions along the row: the least of earlier cells plus their distance.
            row = np.minimum.accumulate(best - ramp, 1) + ramp
        table[i] = row[np.arange(len(b)), ends]
    return torch.from_numpy(table)


def nearest(sequences: Sequence[str], known: Sequence[str]) -> Tensor:
    """Edit distance of each sequence to the nearest known one, over its length, shape (n,).

    >>> nearest(["ACGT"], ["ACG", "TTTTTTT"])
    tensor([0.2500])
    """
    lengths = torch.tensor([max(1, len(sequence)) for sequence in sequences])
    return edit_distances(sequences, known).amin(1) / lengths


def diversity(sequences: Sequence[str]) -> float:
    """Mean edit distance of pairs over the longer length; 0 for one sequence.

    >>> diversity(["AAAA", "AAAT"])
    0.25
    """
    n = len(sequences)
    if n < 2:
        return 0.0
    lengths = torch.tensor([max(1, len(sequence)) for sequence in sequences])
    longer = torch.maximum(lengths[:, None], lengths)
    return float((edit_distances(sequences, sequences) / longer).sum()) / (n * (n - 1))

"""The recipe of the bundled model `peptides`: `python -m fkdiff.sequences.peptides STAGE`.

Stages: `flow` (about an hour on one core; `--resume` goes on), `guides` (minutes), `export`.
Data: antimicrobial peptides and UniProt peptides from the package modlamp (BSD-3-Clause).
"""

import argparse
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from fkdiff.processes.simplex import GumbelPath
from fkdiff.sequences.alphabet import Alphabet
from fkdiff.sequences.denoiser import SimplexDenoiser
from fkdiff.sequences.training import Sequences, fit_flow
from fkdiff.zoo.loop import Fit, Trainer

__all__ = ["CLASSES", "LENGTHS", "Peptide", "peptides"]

CLASSES = ("AMP", "UniProt")
LENGTHS = (7, 50)
FOLDER = Path("training/peptides")
FLOW = Fit(steps=1500, lr=3e-3, warmup=100, hold=0.3, ema=0.998, seed=0)


@dataclass(frozen=True)
class Peptide:
    """One peptide of the data; `held_out` ones are seen by no training of this recipe."""

    sequence: str
    label: str
    held_out: bool


@cache
def peptides() -> tuple[Peptide, ...]:
    """AMP and UniProt peptides of modlamp, without doubles and without those in both classes.

    A tenth is held out, chosen by a hash of the sequence.

    Raises:
        ModuleNotFoundError: If modlamp isn't installed.
    """
    from modlamp.datasets import load_AMPvsUniProt

    data = load_AMPvsUniProt()
    names = [
        CLASSES[0] if str(data.target_names[t]).strip() == "AMP" else CLASSES[1]
        for t in data.target
    ]
    labels: dict[str, set[str]] = {}
    letters = set(Alphabet.named("protein").letters)
    for raw, name in zip(data.sequences, names, strict=True):
        sequence = str(raw).strip().upper()
        if LENGTHS[0] <= len(sequence) <= LENGTHS[1] and set(sequence) <= letters:
            labels.setdefault(sequence, set()).add(name)
    return tuple(
        Peptide(sequence, min(found), _share(sequence) < 0.1)
        for sequence, found in sorted(labels.items())
        if len(found) == 1
    )


def _share(sequence: str) -> float:
    digest = hashlib.blake2b(sequence.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def flow(resume: bool = False, fit: Fit = FLOW) -> Trainer:
    """Train the flow on the peptides that aren't held out."""
    alphabet = Alphabet.named("protein")
    known = [p for p in peptides() if not p.held_out]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.seed)
        net = SimplexDenoiser(
            alphabet.letters,
            LENGTHS[1],
            width=64,
            layers=4,
            heads=4,
            classes=CLASSES,
            dropout=0.1,
        )
    data = Sequences(
        [alphabet.encode(p.sequence) for p in known],
        torch.tensor([CLASSES.index(p.label) for p in known]),
    )
    return fit_flow(
        net, GumbelPath(len(alphabet)), data, fit, FOLDER / "flow", batch=32, resume=resume
    )


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=["flow"])
    parser.add_argument("--resume", action="store_true", help="go on from the last save")
    words = parser.parse_args()
    torch.set_num_threads(1)
    flow(words.resume)


if __name__ == "__main__":
    main()

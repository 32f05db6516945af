"""The recipe of the bundled model `peptides`: `python -m fkdiff.sequences.peptides STAGE`.

Stages: `flow` (about an hour on one core; `--resume` goes on), `guides` (minutes), `export`.
Data: antimicrobial peptides and UniProt peptides from the package modlamp (BSD-3-Clause).
"""

import argparse
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.simplex import GumbelPath
from fkdiff.sequences.alphabet import Alphabet, one_hot, padded
from fkdiff.sequences.denoiser import SimplexDenoiser
from fkdiff.sequences.guide_training import accuracy, fit_guide
from fkdiff.sequences.guides import DescriptorGuide, Hemolysis, save_guide
from fkdiff.sequences.pipeline import GumbelFlowPipeline
from fkdiff.sequences.scheduler import GumbelFlowScheduler
from fkdiff.sequences.training import Sequences, fit_flow
from fkdiff.zoo import path
from fkdiff.zoo.loop import Fit, Trainer

__all__ = ["CLASSES", "LENGTHS", "Peptide", "peptides"]

CLASSES = ("AMP", "UniProt")
LENGTHS = (7, 50)
FOLDER = Path("training/peptides")
FLOW = Fit(steps=1500, lr=3e-3, warmup=100, hold=0.3, ema=0.998, seed=0)

GUIDE = Fit(steps=800, lr=2e-3, warmup=50, hold=0.3, ema=0.99, weight_decay=0.05, seed=1)


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


def guides() -> dict[str, float]:
    """Train the guides and write them; the held-out accuracy of `amp`."""
    alphabet = Alphabet.named("protein")
    rows = {p: alphabet.encode(p.sequence) for p in peptides()}

    def of(label: str, held_out: bool) -> list[Tensor]:
        return [t for p, t in rows.items() if (p.label, p.held_out) == (label, held_out)]

    known, other = of("AMP", False), of("UniProt", False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(GUIDE.seed)
        amp = DescriptorGuide(alphabet.letters)
    amp.standardise(one_hot(padded(known + other), len(alphabet)))
    fit_guide(amp, known, other, GUIDE, FOLDER / "amp")
    hemolytic = Hemolysis(alphabet.letters)
    features = hemolytic.features(one_hot(padded(known), len(alphabet)))
    hemolytic.get_buffer("centre").copy_(features.mean(0))
    hemolytic.get_buffer("spread").copy_(features.std(0))
    everyone = one_hot(padded(known + other), len(alphabet))
    for name, guide in (("amp", amp), ("hemolytic", hemolytic.eval())):
        with torch.no_grad():
            values = guide(everyone)
        file = FOLDER / "guides" / f"{name}.safetensors"
        save_guide(guide, file, round(float(values.mean()), 3), round(float(values.std()), 3))
    told = {"accuracy": round(accuracy(amp, of("AMP", True), of("UniProt", True)), 4)}
    (FOLDER / "guides" / "measured.json").write_text(json.dumps(told))
    return told


def export() -> Path:
    """Write the bundled model from what the other stages left; returns its folder."""
    folder = path("peptides")
    trainer = flow(resume=True)
    net: Any = trainer.modules["denoiser"]
    pipe = GumbelFlowPipeline(net.half(), GumbelFlowScheduler(len(net.alphabet)))
    pipe.save_pretrained(folder)
    for file in (FOLDER / "guides").glob("*.safetensors"):
        (folder / "guides").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / "guides" / file.name)
    known = [p for p in peptides() if not p.held_out]
    text = "".join(f">p{i} class={p.label}\n{p.sequence}\n" for i, p in enumerate(known, 1))
    (folder / "training.fasta").write_text(text, encoding="utf-8")
    lines = (FOLDER / "flow" / "held_out.jsonl").read_text().splitlines()
    losses = {int(p["step"]): p["loss"] for p in map(json.loads, lines)}
    measured = json.loads((FOLDER / "guides" / "measured.json").read_text())
    quality = {
        "held-out loss per letter": {
            "trained": round(losses[max(losses)], 4),
            "without context": round(losses[0], 4),
        },
        "amp guide, balanced accuracy on held-out peptides": measured["accuracy"],
    }
    (folder / "card.json").write_text(json.dumps(CARD | {"quality": quality}, indent=2) + "\n")
    return folder


CARD = {
    "name": "peptides",
    "kind": "sequence flow",
    "summary": "peptides of 7 to 50 residues (GumbelFlowPipeline), guides amp and hemolytic",
    "about": "Gumbel-softmax flow on antimicrobial peptides and on peptides of UniProt, half and "
    "half, so that the base rate leaves room. `amp` is a small classifier of the two classes by "
    "descriptors of the whole sequence; `hemolytic` is a rule of thumb (hydrophobic moment, "
    "hydrophobicity, charge), fitted to no hemolysis data.",
    "licence": "weights Apache-2.0; data from modlamp 4.3.3 (BSD-3-Clause)",
    "data": {
        "set": "AMPvsUniProt of modlamp: 7 to 50 residues, doubles and peptides of both classes "
        "left out, a tenth held out by a hash of the sequence",
        "judge": "macrel is no part of the training. Its package ships no training data, so "
        "overlap with it can't be excluded: it draws on public databases of the same peptides.",
    },
    "recipe": [
        "python -m fkdiff.sequences.peptides flow",
        "python -m fkdiff.sequences.peptides guides",
        "python -m fkdiff.sequences.peptides export",
    ],
    "seed": 0,
    "defaults": {"num_inference_steps": 50},
}

STAGES = {"flow": flow, "guides": guides, "export": export}


def main() -> None:
    """Run a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--resume", action="store_true", help="flow: go on from the last save")
    words = parser.parse_args()
    torch.set_num_threads(1)
    done = flow(words.resume) if words.stage == "flow" else STAGES[words.stage]()
    print(done)


if __name__ == "__main__":
    main()

"""A `fkdiff sequence train` run, from its checked request to the saved pipeline."""

import json
import shlex
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.bounds import check_bounds
from fkdiff.commands.places import held
from fkdiff.commands.stops import Stop, failed, refused
from fkdiff.folders import mark, unmark

if TYPE_CHECKING:
    from fkdiff.sequences.alphabet import Alphabet
    from fkdiff.sequences.fasta import Record

__all__ = ["Training", "run"]

_LONGEST = 10_000
_LETTERS = 1_000_000
"""Letters of a sequence and of a step beyond which a step takes minutes."""


@dataclass(frozen=True)
class Training:
    """The options of `fkdiff sequence train`."""

    data: Path
    alphabet: str
    out: Path
    steps: int
    batch: int
    lr: float
    width: int
    layers: int
    schedule: str
    loss: str
    held_out: float
    seed: int
    resume: bool
    guides: bool
    skip_invalid: bool


def run(asked: Training) -> None:
    """Train and save; says where.

    Raises:
        Stop: If it is refused (nothing is written), fails or is interrupted (the state is kept).
    """
    alphabet, records = _checked(asked)
    classes = tuple(sorted({r.label for r in records if r.label is not None}))
    with held(asked.out):
        mark(asked.out)
        _trained(asked, alphabet, records, classes)


def _trained(
    asked: Training, alphabet: "Alphabet", records: "list[Record]", classes: tuple[str, ...]
) -> None:
    try:
        trainer, net, path = _fitted(asked, alphabet, records, classes)
    except KeyboardInterrupt:
        raise Stop(f"interrupted; go on with --resume --out {asked.out}", code=130) from None
    except (FloatingPointError, RuntimeError) as error:
        raise failed(f"{error}; the last save is in {asked.out / 'training'}") from None
    _save(asked, alphabet, records, classes, net, path)
    _tell(asked, trainer)


def _checked(asked: Training) -> "tuple[Alphabet, list[Record]]":
    from fkdiff.report import check_folder
    from fkdiff.sequences.alphabet import Alphabet
    from fkdiff.sequences.fasta import FastaError
    from fkdiff.sequences.tables import read_sequences

    check_bounds(asked, {"steps": (1, 10_000_000), "batch": (1, 100_000), "width": (4, 4096)})
    if asked.width % 4:
        raise refused(f"--width must be a positive multiple of 4, got {asked.width}")
    if not 0 < asked.lr < 1:
        raise refused(f"--lr must be in (0, 1), got {asked.lr:g}")
    if not 0 <= asked.held_out <= 0.5:
        raise refused(f"--held-out must be in [0, 0.5], got {asked.held_out:g}")
    for name, value, known in (
        ("schedule", asked.schedule, ("consistent", "paper")),
        ("loss", asked.loss, ("flow", "score")),
    ):
        if value not in known:
            raise refused(f"--{name} must be one of {', '.join(known)}, got {value!r}")
    try:
        alphabet = Alphabet.named(asked.alphabet)
        skipped: list[str] | None = [] if asked.skip_invalid else None
        records = read_sequences(asked.data, alphabet, skipped)
    except FastaError as error:
        raise refused(error) from None
    except ValueError as error:
        raise refused(f"--alphabet: {error}") from None
    except OSError as error:
        raise refused(f"{asked.data} can't be read: {error.strerror or error}") from None
    _check_lengths(asked, records)
    try:
        check_folder(asked.out)
    except OSError as error:
        raise refused(f"--out {asked.out}: {error}") from None
    if asked.resume and not (asked.out / "training" / "state.safetensors").exists():
        raise refused(f"--resume: {asked.out} holds no training to go on with; leave it out")
    if skipped:
        told = f"left out {len(skipped)} of {len(skipped) + len(records)} sequences"
        warnings.warn(f"{told}, the first because of {skipped[0]}", stacklevel=2)
    return alphabet, records


def _check_lengths(asked: Training, records: "list[Record]") -> None:
    """Refuse sequences that no network here learns in bearable time and memory."""
    longest = max(records, key=lambda record: len(record.sequence))
    letters = len(longest.sequence)
    if letters > _LONGEST:
        raise refused(
            f"{asked.data}: sequences must have at most {_LONGEST} letters, {longest.name} has "
            f"{letters}; cut them into windows"
        )
    if letters * asked.batch > _LETTERS:
        most = _LETTERS // letters
        raise refused(
            f"--batch must be at most {most} for sequences of {letters} letters, got {asked.batch}"
        )


def _fitted(
    asked: Training, alphabet: "Alphabet", records: "list[Record]", classes: tuple[str, ...]
) -> Any:
    import torch

    from fkdiff.processes.simplex import GumbelPath
    from fkdiff.sequences.denoiser import SimplexDenoiser
    from fkdiff.sequences.training import Sequences, fit_flow
    from fkdiff.zoo.loop import Fit

    longest = max(len(r.sequence) for r in records)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        net = SimplexDenoiser(
            alphabet.letters, longest, asked.width, asked.layers, 4, classes, dropout=0.1
        )
    path = GumbelPath(len(alphabet), asked.schedule)  # pyright: ignore[reportArgumentType]
    data = Sequences(
        [alphabet.encode(r.sequence) for r in records],
        net.class_numbers([r.label for r in records]),
        held_out=asked.held_out,
        seed=asked.seed,
    )
    fit = Fit(
        asked.steps, asked.lr, warmup=min(100, asked.steps), hold=0.3, ema=0.998, seed=asked.seed,
        save_seconds=60.0,
    )  # fmt: skip
    trainer = fit_flow(
        net, path, data, fit, asked.out / "training", asked.batch,
        asked.loss, asked.resume,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return trainer, net, path


def _save(
    asked: Training,
    alphabet: "Alphabet",
    records: "list[Record]",
    classes: tuple[str, ...],
    net: Any,
    path: Any,
) -> None:
    from fkdiff.report.folder import write_file, write_json
    from fkdiff.sequences.pipeline import GumbelFlowPipeline
    from fkdiff.sequences.scheduler import GumbelFlowScheduler

    pipe = GumbelFlowPipeline(net, GumbelFlowScheduler(len(alphabet), path.schedule))
    pipe.save_pretrained(asked.out)
    lines = [f">{r.name}" + (f" class={r.label}" if r.label else "") for r in records]
    text = "".join(f"{a}\n{r.sequence}\n" for a, r in zip(lines, records, strict=True))
    write_file(asked.out / "training.fasta", text.encode())
    counts = Counter(r.label or "" for r in records)
    about = {"sequences": len(records), "classes": dict(counts), "steps": asked.steps}
    write_json(asked.out / "card.json", {"kind": "sequence flow", **about, "seed": asked.seed})
    unmark(asked.out)  # its card says as much
    write_file(asked.out / "loss.png", loss_curve(asked.out / "training"))
    if asked.guides and len(counts) > 1:
        for name in classes:
            _guide(asked, alphabet, records, name)


def _guide(asked: Training, alphabet: "Alphabet", records: "list[Record]", name: str) -> None:
    import re

    import torch

    from fkdiff.sequences.alphabet import one_hot, padded
    from fkdiff.sequences.guide_training import fit_guide
    from fkdiff.sequences.guides import ConvGuide, save_guide
    from fkdiff.zoo.loop import Fit

    rows = [alphabet.encode(r.sequence) for r in records]
    inside = [row for row, r in zip(rows, records, strict=True) if r.label == name]
    outside = [row for row, r in zip(rows, records, strict=True) if r.label != name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        guide = ConvGuide(alphabet.letters)
    fit = Fit(
        min(400, asked.steps),
        2e-3,
        warmup=50,
        hold=0.3,
        ema=0.99,
        weight_decay=0.05,
        seed=asked.seed,
    )
    stem = re.sub(r"\W+", "_", name)
    fit_guide(guide, inside, outside, fit, asked.out / "training" / f"guide_{stem}")
    with torch.no_grad():
        values = guide(one_hot(padded(rows), len(alphabet)))
    file = asked.out / "guides" / f"{stem}.safetensors"
    save_guide(guide, file, float(values.mean()), max(float(values.std()), 1e-3))


def loss_curve(folder: Path) -> bytes:
    """The training and held-out losses as a PNG picture."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.add_subplot()
    for name, word in (("log.jsonl", "training"), ("held_out.jsonl", "held out")):
        file = folder / name
        lines = file.read_text().splitlines() if file.exists() else []
        points = [json.loads(line) for line in lines]
        if points:
            axis.plot([p["step"] for p in points], [p["loss"] for p in points], label=word)
    axis.set(xlabel="step", ylabel="loss per letter")
    if axis.lines:
        axis.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _tell(asked: Training, trainer: Any) -> None:
    from rich.console import Console

    file = asked.out / "training" / "held_out.jsonl"
    points = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    held = f", held-out loss {points[-1]['loss']:.3f}" if points else ""
    console = Console()
    console.print(f"{trainer.step} steps{held}", highlight=False)
    model = f"model: {asked.out} (loss curve: {asked.out / 'loss.png'})"
    console.print(model, markup=False, highlight=False, soft_wrap=True)
    again = f"--model {shlex.quote(str(asked.out))} --n 16 --out designs.fasta"
    words = f"\nfkdiff sequence generate {again}"
    console.print(words, markup=False, highlight=False, soft_wrap=True)

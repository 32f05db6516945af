"""`fkdiff sequence`: train flows on sequences, and design with them."""

from pathlib import Path
from typing import Annotated

import typer

from fkdiff.commands.places import path
from fkdiff.commands.stops import refused

__all__ = ["EXAMPLE", "GENERATE_EXAMPLE", "TRAIN_EXAMPLE", "app"]

EXAMPLE = "Example: fkdiff sequence generate --guide amp --length 20 --n 16 --out designs.fasta"
GENERATE_EXAMPLE = (
    'Example: fkdiff sequence generate --guide amp --reward "amp - hemolytic" '
    "--length 20 --n 64 --out designs.fasta"
)
MASKED_EXAMPLE = (
    "Example: fkdiff sequence generate --masked --model antiberty --length 30 "
    "--reward protein:charge --scale 2"
)
TRAIN_EXAMPLE = "Example: fkdiff sequence train my.fasta --alphabet protein --out runs/mine"

app = typer.Typer(
    help="Train flows on sequences, and design with several properties at once.",
    epilog=EXAMPLE,
    no_args_is_help=True,
)


@app.command(epilog=TRAIN_EXAMPLE)
def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="FASTA file, where class=NAME in headers gives classes, or a .csv with a column "
            "sequence, and name and class if there are.",
            parser=path,
        ),
    ],
    alphabet: Annotated[
        str, typer.Option(help="protein, dna, rna, or a text file of the letters.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.", parser=path)],
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2000,
    batch: Annotated[int, typer.Option(help="Sequences a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    width: Annotated[int, typer.Option(help="Width of the network, a multiple of 4.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks of the network.")] = 5,
    schedule: Annotated[
        str, typer.Option(help="consistent, or paper (published, biased, kept to compare).")
    ] = "consistent",
    loss: Annotated[str, typer.Option(help="flow (cross-entropy) or score.")] = "flow",
    held_out: Annotated[float, typer.Option(help="Share kept apart to watch the loss.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the folder's last save.")] = False,
    guides: Annotated[
        bool, typer.Option(help="With classes: also train a guide for each.")
    ] = True,
    skip_invalid: Annotated[
        bool,
        typer.Option(
            "--skip-invalid", help="Leave out sequences with other letters, and say how many."
        ),
    ] = False,
) -> None:
    """Train a flow on sequences; the folder is a diffusers pipeline."""
    from fkdiff.commands.sequence_training import Training, run

    run(
        Training(
            data, alphabet, out, steps, batch, lr, width, layers, schedule, loss, held_out, seed,
            resume, guides, skip_invalid,
        )
    )  # fmt: skip


@app.command(epilog=f"{GENERATE_EXAMPLE}\n\n{MASKED_EXAMPLE}")
def generate(
    model: Annotated[str, typer.Option(help="peptides, or a folder that train wrote.")] = (
        "peptides"
    ),
    guide: Annotated[
        str | None, typer.Option(help="Guide of the model, or a formula over several.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Strength of the guide, gamma.")] = 2.0,
    reward: Annotated[
        str | None, typer.Option(help='What to prefer, such as "amp - hemolytic".')
    ] = None,
    scale: Annotated[float, typer.Option(help="Strength of the reward, lambda.")] = 1.0,
    length: Annotated[int | None, typer.Option(help="Letters of each design.")] = None,
    n: Annotated[int, typer.Option(help="Number of designs.")] = 16,
    particles: Annotated[int, typer.Option(help="Particles for each design.")] = 8,
    steps: Annotated[int, typer.Option(help="Transitions.")] = 50,
    draws: Annotated[
        int,
        typer.Option(help="Draws a step, M: one-hot of the guide; with --masked of clean texts."),
    ] = 10,
    class_label: Annotated[
        str | None, typer.Option("--class", help="Class that the model was trained with.")
    ] = None,
    reweight: Annotated[
        bool, typer.Option(help="Carry the guide's proposal ratio, so that the law is stated.")
    ] = True,
    jaspar: Annotated[
        Path | None,
        typer.Option(help="JASPAR matrices: motifs to name in guides and rewards.", parser=path),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Also run plain and guided alone, to tell the difference.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[
        Path, typer.Option(help="FASTA file; CSV, JSON and PNG go beside it.", parser=path)
    ] = Path("designs.fasta"),
    masked: Annotated[
        bool,
        typer.Option(
            help="The model is a masked language model: folder or Hub id, or antiberty. Words are "
            "written as lines, letters as FASTA."
        ),
    ] = False,
    prompt: Annotated[
        str, typer.Option(help="With --masked: text before the drawn tokens, or with [MASK]s.")
    ] = "",
    temperature: Annotated[float, typer.Option(help="With --masked: of the model.")] = 1.0,
    order: Annotated[
        str, typer.Option(help="With --masked: random, or confidence (the surest first).")
    ] = "random",
    remask: Annotated[
        float, typer.Option(help="With --masked: how readily tokens are masked again, 0 to 1.")
    ] = 0.0,
) -> None:
    """Design sequences; properties are in the headers, numbers in the CSV."""
    if masked:
        from fkdiff.commands.masked_designing import MaskedRequest
        from fkdiff.commands.masked_designing import run as run_masked

        for option, given in (("--guide", guide), ("--class", class_label), ("--jaspar", jaspar)):
            if given is not None:
                raise refused(f"{option} belongs to flows, not to --masked; take --reward")
        run_masked(
            MaskedRequest(
                model, prompt, reward, scale, length, n, particles, steps, draws, temperature,
                order, remask, compare, seed, out,
            )
        )  # fmt: skip
        return
    if prompt:
        raise refused("--prompt belongs to --masked; flows draw whole sequences")
    from fkdiff.commands.designing import Request, run

    run(
        Request(
            model, guide, guidance, reward, scale, length, n, particles, steps, draws,
            class_label, reweight, jaspar, compare, seed, out,
        )
    )  # fmt: skip

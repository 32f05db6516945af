"""`fkdiff sweep`: one seed drawn over weights of an expert, and over guidance with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fkdiff.commands.places import held, path, steady
from fkdiff.commands.request import Request, checked
from fkdiff.commands.stops import failed, refused

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["EXAMPLE", "sweep"]

EXAMPLE = (
    'Example: fkdiff sweep "a cat on a blue background" --expert emoji-rl --w 0,1,2,3 '
    "--guidance 1.5,3,6 --out runs/sweep"
)


_MOST, _LARGEST = 32, 1000


@dataclass(frozen=True)
class _Cell:
    """One setting, what it drew and how that scored."""

    guidance: float | None
    w: float
    image: "Image"
    score: float | None
    ess: float
    evaluations: int


def sweep(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    expert: Annotated[
        str, typer.Option(help="The RL-tuned LoRA: emoji-rl, a folder or a Hub id.")
    ] = "emoji-rl",
    w: Annotated[
        str, typer.Option(help="Weights of the expert, the columns: 0 is the base, 1 tuned.")
    ] = "0,0.5,1,1.5,2,2.5,3",
    guidance: Annotated[
        str | None, typer.Option(help="Guidance scales, the rows of the grid; none for no grid.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled model, a folder or a Hub id.")
    ] = Request.model,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Annotated[int, typer.Option(help="The one seed of all pictures.")] = Request.seed,
    reward: Annotated[
        str | None, typer.Option(help="A reward to write below each picture.")
    ] = None,
    correct: Annotated[
        bool, typer.Option("--correct", help="Correct each cloud; needs particles.")
    ] = False,
    particles: Annotated[
        int, typer.Option("--particles", "-k", help="Pictures in each corrected cloud.")
    ] = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pictures.", parser=path)] = Path(
        "runs/sweep"
    ),
) -> None:
    """Draw one seed over weights of an RL-tuned expert: the slider, and (guidance x w)."""
    weights = _numbers("--w", w)
    scales = [None, *(_numbers("--guidance", guidance) if guidance else ())]
    if correct and particles < 2:
        raise refused("--correct must have --particles 2 or more: one particle has no weights")
    request = checked(
        Request(
            prompts=(prompt,),
            model=model,
            particles=particles,
            reward=reward or "none",
            steps=steps,
            seed=seed,
            out=out,
            device=device,
            expert=(f"{expert}=1",),
            correct=correct,
            plain=False,
        )
    )
    with held(out):
        cells = _drawn(request, expert, weights, scales)
        _save(request, cells, weights, scales)


def _numbers(option: str, text: str) -> list[float]:
    """Finite numbers between commas.

    >>> _numbers("--w", "0, 0.5,1")
    [0.0, 0.5, 1.0]
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise refused(f"{option} must be finite numbers between commas, got {text!r}; use 0,1,2")
    if len(values) > _MOST or max(map(abs, values)) > _LARGEST:
        rule = f"at most {_MOST} numbers, none beyond {_LARGEST}"
        raise refused(f"{option} must be {rule}, got {text[:60]!r}")
    return values


def _drawn(
    request: Request, expert: str, weights: Sequence[float], scales: Sequence[float | None]
) -> list[_Cell]:
    from tqdm import tqdm

    from fkdiff.commands.drawing import load_pipeline, load_reward_of
    from fkdiff.commands.pool_options import load_expert

    monitor = [] if request.reward == "none" else [load_reward_of(request.reward or "")]
    pipe = load_pipeline(request)
    adapter = load_expert(pipe, expert)
    pipe.set_progress_bar_config(disable=True)
    settings = [(g, w) for g in scales for w in weights]
    bar = tqdm(settings, desc="sweep", mininterval=1)
    return [_cell(request, pipe, adapter, monitor, g, w) for g, w in bar]


def _cell(
    request: Request, pipe: Any, adapter: str, monitor: list[Any], g: float | None, w: float
) -> _Cell:
    from fkdiff import Correct, RLGuidance, steer
    from fkdiff.commands.calls import call_arguments

    here = request if g is None else replace(request, guidance=g)
    terms = [RLGuidance(adapter, w), *([Correct()] if request.correct else [])]
    steered = steer(pipe, *terms, particles=request.particles, monitor=monitor, seed=request.seed)
    try:
        with steady():
            out = steered(**call_arguments(here, pipe))
    except ValueError as error:
        raise (refused if steered.partial is None else failed)(error) from None
    result = out.steering
    slot = int(result.selected[0, 0])
    score = next((float(v[0, slot]) for v in result.rewards.values()), None)
    return _Cell(
        here.guidance, w, out.images[0], score, float(result.ess[0]),
        result.cost.denoiser_evaluations,
    )  # fmt: skip


def _save(
    request: Request, cells: list[_Cell], weights: list[float], scales: Sequence[float | None]
) -> None:
    from rich.console import Console

    from fkdiff.report.folder import check_folder, write_file, write_json

    folder = check_folder(request.out or Path("runs/sweep"))
    folder.mkdir(parents=True, exist_ok=True)
    lines = [cells[i : i + len(weights)] for i in range(0, len(cells), len(weights))]
    labels = [f"guidance {g:g}" for g in scales if g is not None]
    made = {"slider.png": _figure(request, lines[:1], [])}
    if labels:
        made["grid.png"] = _figure(request, lines[1:], labels)
    for name, data in made.items():
        write_file(folder / name, data)
    numbers = [{k: v for k, v in vars(cell).items() if k != "image"} for cell in cells]
    about = {"prompt": request.prompts[0], "seed": request.seed, "expert": request.expert[0]}
    about |= {"model": request.model, "correct": request.correct, "cells": numbers}
    write_json(folder / "sweep.json", about)
    console = Console()
    for name in (*made, "sweep.json"):
        console.print(str(folder / name), markup=False, highlight=False, soft_wrap=True)


def _figure(request: Request, lines: list[list[_Cell]], labels: list[str]) -> bytes:
    """Pictures of cells, weights across and guidance down."""
    from fkdiff.report.sweeps import grid_png

    captions = [["" if c.score is None else f"{c.score:.3f}" for c in line] for line in lines]
    return grid_png(
        [[cell.image for cell in line] for line in lines],
        [f"w = {cell.w:g}" for cell in lines[0]],
        labels,
        captions if any(captions[0]) else (),
        f"{request.prompts[0]}, seed {request.seed}",
    )

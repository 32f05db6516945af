"""`fkdiff policy`: closed-loop success and latency of ways to decide, and their calibration."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff.commands.places import path

__all__ = ["CALIBRATE_EXAMPLE", "EVAL_EXAMPLE", "app"]

EVAL_EXAMPLE = (
    "Example: fkdiff policy eval --task pick-place-v3 --method rti_auto --method ddim10 "
    "--episodes 50 --seed 1000"
)
CALIBRATE_EXAMPLE = "Example: fkdiff policy calibrate --task push-v3 --executed 4 --out push.json"

app = typer.Typer(
    name="policy",
    help="Diffusion policies at control rate: warm starts on Meta-World tasks.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

_TASK = "pick-place-v3, push-v3, drawer-open-v3 or assembly-v3."
_METHOD = (
    "ddpm100, ddim10, ddim4, ddim2, ddim1, rti_paper, rti_auto, hold, wrong_chunk. May be "
    "repeated; the first is compared with each other on the same episodes."
)
_CALIBRATION = "A file of `fkdiff policy calibrate`; by default the model's own for --replan."


@app.command("eval", epilog=EVAL_EXAMPLE)
def evaluate(
    task: Annotated[str, typer.Option(help=_TASK)] = "pick-place-v3",
    method: Annotated[list[str] | None, typer.Option(help=_METHOD + " Default: rti_auto.")] = None,
    episodes: Annotated[int, typer.Option(help="Episodes for each method.")] = 50,
    seed: Annotated[int, typer.Option(help="The first episode's seed; each has its own.")] = 1000,
    replan: Annotated[int, typer.Option(help="Actions executed between decisions.")] = 1,
    push: Annotated[bool, typer.Option(help="Move the object once in mid-episode.")] = False,
    model: Annotated[str, typer.Option(help="A bundled policy or a folder.")] = "metaworld",
    calibration: Annotated[Path | None, typer.Option(help=_CALIBRATION, parser=path)] = None,
    latency: Annotated[int, typer.Option(help="Decisions to time, 0 for none.")] = 200,
    gif: Annotated[bool, typer.Option(help="Film an episode, where MuJoCo can render.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; by default runs/policy-TASK.", parser=path),
    ] = None,
) -> None:
    """Run closed-loop episodes and report success, latency and the choice of K'."""
    given = dict(locals())
    from fkdiff.commands.policy_runs import Evaluation, run_evaluation

    given["method"] = tuple(method or ["rti_auto"])
    run_evaluation(Evaluation(**given))


@app.command("calibrate", epilog=CALIBRATE_EXAMPLE)
def calibrate(
    task: Annotated[
        list[str] | None, typer.Option(help=_TASK + " May be repeated. Default: all.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Episodes of each task.")] = 4,
    seed: Annotated[int, typer.Option(help="The first episode's seed.")] = 500,
    executed: Annotated[int, typer.Option(help="Actions executed between decisions.")] = 1,
    draws: Annotated[int, typer.Option(help="Full samples for each observation.")] = 8,
    tolerance: Annotated[
        float | None, typer.Option(help="Bearable error; by default the policy's own spread.")
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled policy or a folder.")] = "metaworld",
    out: Annotated[Path, typer.Option(help="The file to write.", parser=path)] = Path(
        "calibration.json"
    ),
) -> None:
    """Measure how far guesses are off, and choose the least K' that makes up for it."""
    given: dict[str, Any] = dict(locals())
    from fkdiff.commands.policy_runs import Calibrating, run_calibration

    given["task"] = tuple(task or ())
    run_calibration(Calibrating(**given))

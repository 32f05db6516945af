"""What `fkdiff policy` does, from checked options to tables and files."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fkdiff.commands.bounds import check_bounds
from fkdiff.commands.places import check_file, held, is_ours
from fkdiff.commands.stops import failed, refused

if TYPE_CHECKING:
    from fkdiff.policy.calibration import Calibration, Choice, Recording
    from fkdiff.policy.pipeline import WarmStartPolicyPipeline
    from fkdiff.policy.rollouts import Episode, Rollouts

__all__ = ["Calibrating", "Evaluation", "run_calibration", "run_evaluation"]

FILM_EVERY = 3
_SEEDS = (0, 2**31 - 1)
"""Of the simulator, which takes 32 bits."""


@dataclass(frozen=True)
class Evaluation:
    """Options of `fkdiff policy eval`."""

    task: str
    method: tuple[str, ...]
    episodes: int
    seed: int
    replan: int
    push: bool
    model: str
    calibration: Path | None
    latency: int
    gif: bool
    out: Path | None


@dataclass(frozen=True)
class Calibrating:
    """Options of `fkdiff policy calibrate`."""

    task: tuple[str, ...]
    episodes: int
    seed: int
    executed: int
    draws: int
    tolerance: float | None
    model: str
    out: Path


def run_evaluation(wanted: Evaluation) -> None:
    """Run the episodes, print the table, leave the report.

    Raises:
        Stop: If the request is refused (nothing is written) or fails.
    """
    with held(folder := _checked(wanted)):
        _evaluate(wanted, folder)


def _evaluate(wanted: Evaluation, folder: Path) -> None:
    from fkdiff.policy.methods import make_method
    from fkdiff.policy.rollouts import Rollouts
    from fkdiff.report.policy_page import MethodFacts, save_evaluation

    pipeline = _pipeline(wanted.model, wanted.replan)
    calibration = _calibration(wanted, pipeline)
    net: Any = pipeline.denoiser
    levels, shape = pipeline.sampler.levels, pipeline.sampler.shape

    def method(name: str) -> Any:
        return make_method(name, net, levels, shape, calibration, wanted.seed)

    rollouts = Rollouts(wanted.task)
    seeds = list(range(wanted.seed, wanted.seed + wanted.episodes))
    found: dict[str, list[Episode]] = {}
    for name in wanted.method:
        rolled = rollouts.run(_made(method, name), seeds, wanted.replan, wanted.push)
        found[name] = list(_watched(rolled, wanted.episodes, f"{name} on {wanted.task}"))
    times = _times(wanted, rollouts, method) if wanted.latency else {}
    facts = [MethodFacts.of(name, rows, times.get(name, [])) for name, rows in found.items()]
    film, note = _film(wanted, method) if wanted.gif else (None, "")
    choice = _choice(calibration, levels)
    page = save_evaluation(folder, _plain(wanted), facts, choice, film, note)
    _print_table(facts)
    if choice is not None and any(name == "rti_auto" for name in wanted.method):
        print(choice.explain())
    print(f"report: {page}")


def run_calibration(wanted: Calibrating) -> None:
    """Record episodes, measure, choose and write the file.

    Raises:
        Stop: If the request is refused (nothing is written) or fails.
    """
    from fkdiff.policy.calibration import calibrate
    from fkdiff.policy.methods import make_method
    from fkdiff.policy.rollouts import Rollouts
    from fkdiff.policy.tasks import TASKS
    from fkdiff.policy.warm_start import WarmStart

    tasks = wanted.task or TASKS
    _check_tasks(tasks)
    check_bounds(wanted, {"draws": (2, 10_000), "seed": _SEEDS})
    if wanted.tolerance is not None and not 0 < wanted.tolerance < math.inf:
        raise refused(f"--tolerance must be positive and finite, got {wanted.tolerance}")
    check_file("--out", wanted.out, is_ours(wanted.out, "executed", "spread", "tolerance"))
    pipeline = _pipeline(wanted.model, wanted.executed)
    net: Any = pipeline.denoiser
    levels = replace(pipeline.sampler.levels, eta=0.0)
    kept: list[Recording] = []
    for task in tasks:
        method = make_method("ddim10", net, levels, pipeline.sampler.shape, seed=wanted.seed)
        seeds = list(range(wanted.seed, wanted.seed + wanted.episodes))
        rolled = Rollouts(task).run(method, seeds, wanted.executed, record=True)
        for episode in _watched(rolled, wanted.episodes, f"ddim10 on {task}"):
            if episode.success and episode.recording is not None:
                kept.append(episode.recording)
    try:
        made = calibrate(net, levels, kept, wanted.executed, wanted.draws, seed=wanted.seed)
    except ValueError as error:
        raise failed(error) from None
    made.save(wanted.out)
    choice = made.choose(levels, WarmStart(tolerance=wanted.tolerance))
    _print_choice(choice, made)
    print(f"wrote {wanted.out}; use it with: fkdiff policy eval --calibration {wanted.out}")


def _checked(wanted: Evaluation) -> Path:
    from fkdiff.policy.methods import METHODS
    from fkdiff.report.folder import check_folder

    _check_tasks([wanted.task])
    for name in wanted.method:
        if name not in METHODS:
            raise refused(f"--method must be one of {', '.join(METHODS)}, got {name!r}")
    check_bounds(wanted, {"seed": _SEEDS})
    try:
        return check_folder(wanted.out or Path("runs") / f"policy-{wanted.task}")
    except OSError as error:
        raise refused(f"--out: {error}") from None


def _check_tasks(tasks: tuple[str, ...] | list[str]) -> None:
    from fkdiff.policy.tasks import MissingExtra, TaskEpisode, check_task

    try:
        for task in tasks:
            check_task(task)
        TaskEpisode(tasks[0])
    except (ValueError, MissingExtra) as error:
        raise refused(error) from None


def _pipeline(model: str, executed: int) -> "WarmStartPolicyPipeline":
    from diffusers.utils import logging

    from fkdiff import zoo
    from fkdiff.policy.pipeline import WarmStartPolicyPipeline
    from fkdiff.policy.tasks import ACTION_SIZE, OBSERVATION_SIZE

    if model in zoo.MODELS and zoo.MODELS[model].kind != "policy":
        raise refused(f"--model {model} is a {zoo.MODELS[model].kind}, it decides no actions")
    folder = zoo.path(model) if model in zoo.MODELS else Path(model)
    if not os.path.isdir(folder):
        raise refused(f"--model {model} is neither a bundled policy (metaworld) nor a folder")
    logging.disable_progress_bar()
    try:
        pipeline = WarmStartPolicyPipeline.from_pretrained(folder)
    except Exception as error:  # what a folder of any origin holds fails in any way
        raise refused(f"--model {model} can't be loaded: {' '.join(str(error).split())}") from None
    config = pipeline.sampler
    if (config.observation_size, config.shape[1]) != (OBSERVATION_SIZE, ACTION_SIZE):
        raise refused(
            f"--model {model} sees {config.observation_size} numbers and gives {config.shape[1]}, "
            f"these tasks have {OBSERVATION_SIZE} and {ACTION_SIZE}"
        )
    if executed > config.shape[0]:
        raise refused(
            f"actions between decisions must be at most the horizon {config.shape[0]}, "
            f"got {executed}"
        )
    return pipeline


def _calibration(wanted: Evaluation, pipeline: "WarmStartPolicyPipeline") -> "Calibration | None":
    from fkdiff import zoo
    from fkdiff.policy.calibration import Calibration

    file = wanted.calibration
    if file is None and wanted.model in zoo.MODELS:
        name = "calibration.json" if wanted.replan == 1 else f"calibration_{wanted.replan}.json"
        file = zoo.path(wanted.model) / name
        if not file.exists():
            file = None
    try:
        found = pipeline.calibration if file is None else Calibration.load(file)
    except (OSError, ValueError) as error:
        raise refused(f"--calibration: {error}") from None
    needed = {"rti_auto", "wrong_chunk"} & set(wanted.method)
    if needed and (found is None or found.executed != wanted.replan):
        raise refused(
            f"{', '.join(sorted(needed))} at --replan {wanted.replan} must have a calibration; "
            f"make one: fkdiff policy calibrate --executed {wanted.replan}"
        )
    return found


def _made(method: Any, name: str) -> Any:
    try:
        return method(name)
    except ValueError as error:
        raise refused(error) from None


def _watched(rolled: "Iterator[Episode]", total: int, words: str) -> "Iterator[Episode]":
    """Episodes as they end, under a bar with the success so far."""
    successes = 0
    with tqdm(total=total, desc=words, unit="episode") as bar:
        for done, episode in enumerate(rolled, 1):
            successes += episode.success
            bar.set_postfix_str(f"success {successes}/{done}")
            bar.update()
            yield episode


def _times(wanted: Evaluation, rollouts: "Rollouts", method: Any) -> dict[str, list[float]]:
    from fkdiff.bench.latency import decision_times

    watched = rollouts.run(method("ddim10"), [wanted.seed, wanted.seed + 1], record=True)
    seen = [e.recording.observations for e in watched if e.recording is not None]
    return decision_times({name: method(name) for name in wanted.method}, seen, wanted.latency)


def _film(wanted: Evaluation, method: Any) -> tuple[bytes | None, str]:
    """A GIF of the first episode, or why there is none."""
    import io

    from PIL import Image

    from fkdiff.policy.rollouts import Rollouts
    from fkdiff.policy.tasks import TaskEpisode

    frames: list[Image.Image] = []

    def watch(seed: int, env: TaskEpisode) -> None:
        frames.append(Image.fromarray(env.frame()).resize((240, 240)))

    rollouts = Rollouts(wanted.task, batch=1, render=True)
    run = rollouts.run(
        method(wanted.method[0]), [wanted.seed], wanted.replan, wanted.push, watch=watch
    )
    try:
        list(run)
    except Exception as error:  # MuJoCo's renderers fail in ways of their own
        return None, f"No film: MuJoCo can't render here ({type(error).__name__}: {error})."
    kept, buffer = frames[::FILM_EVERY], io.BytesIO()
    kept[0].save(buffer, "GIF", save_all=True, append_images=kept[1:], duration=60, loop=0)
    return buffer.getvalue(), ""


def _choice(calibration: "Calibration | None", levels: Any) -> "Choice | None":
    return None if calibration is None else calibration.choose(replace(levels, eta=0.0))


def _plain(wanted: Evaluation) -> dict[str, Any]:
    fields = asdict(wanted)
    return {k: str(v) if isinstance(v, Path) else v for k, v in fields.items() if k != "out"}


def _print_table(facts: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("method", "success", "95%", "evaluations", "cold", "median ms", "p95 ms"):
        table.add_column(column)
    for fact in facts:
        table.add_row(*map(Text, fact.cells()))
    Console().print(table)


def _print_choice(choice: "Choice", made: "Calibration") -> None:
    print(f"spread of actions {made.tolerance:.3g}; guess error {made.guess_error:.3g} (both rms)")
    for start, factor, remaining in choice.table[::5]:
        print(f"  K' {start:3d}   C {factor:6.3f}   remaining error {remaining:.4f}")
    print(choice.explain())

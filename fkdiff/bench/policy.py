"""Success and latency of warm starts against the usual solvers and controls that should fail.

Episodes are paired: every method meets the same seeds, all held out of training. Blocks of
episodes are kept in the file of `--resume` as they end; other weights, calibrations or code want
another file.

Controls: `hold` denoises nothing, `ddim1` has no guess. `wrong_chunk` starts from another
environment's chunk and tells how much the guess matters: the automatic K' is chosen so that the
guess's errors are forgotten, wrong guesses of the same size included, so that it does as well as
`rti_auto` wherever the observation decides the chunk.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fkdiff import zoo
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import decision_times
from fkdiff.policy import methods
from fkdiff.policy.calibration import Calibration
from fkdiff.policy.intervals import paired_difference, wilson
from fkdiff.policy.levels import Levels
from fkdiff.policy.methods import METHODS, Controller, make_method
from fkdiff.policy.pipeline import WarmStartPolicyPipeline
from fkdiff.policy.rollouts import Episode, Rollouts
from fkdiff.policy.tasks import TASKS

__all__ = ["FULL", "QUICK", "Plan", "run"]

FIRST_SEED = 1000
BLOCK = 25
"""Episodes that run side by side, and are kept together."""
BASELINES = ("ddpm100", "ddim10", "ddim4")
PAIRS = (("rti_auto", "ddpm100"), ("rti_auto", "ddim10"))


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Arguments:
        main: Episodes a task of `methods`, replanning every step, nothing pushed.
        rest: Episodes a task of `rest_methods` in the other set-ups.
        decisions: Decisions timed for each method.
        set_ups: Pairs (actions between decisions, whether the object is pushed) of the rest.
        rest_methods: Methods of the rest.
        methods: Methods of the main set-up, and those that are timed.
        tasks: Which tasks.
    """

    main: int
    rest: int
    decisions: int
    set_ups: tuple[tuple[int, bool], ...] = (
        (4, False),
        (8, False),
        (1, True),
        (4, True),
        (8, True),
    )
    rest_methods: tuple[str, ...] = ("ddpm100", "ddim10", "rti_auto", "ddim1", "hold")
    methods: tuple[str, ...] = tuple(METHODS)
    tasks: tuple[str, ...] = TASKS


FULL = Plan(main=400, rest=100, decisions=200)
QUICK = Plan(main=2, rest=2, decisions=40, set_ups=((1, True),), rest_methods=("rti_auto",))


@dataclass(frozen=True)
class _Cell:
    method: str
    task: str
    replan: int
    push: bool
    episodes: int

    @property
    def key(self) -> str:
        push = "-push" if self.push else ""
        return f"{self.method}-{self.task}-{self.replan}{push}"

    def blocks(self) -> Iterator[range]:
        """Seeds, a block at a time."""
        end = FIRST_SEED + self.episodes
        for first in range(FIRST_SEED, end, BLOCK):
            yield range(first, min(first + BLOCK, end))


def run(
    quick: bool = False, seed: int = 0, resume: Path | None = None, plan: Plan | None = None
) -> dict[str, Any]:
    """Run what hasn't been run yet, and sum up.

    Arguments:
        quick: A few episodes of everything, for a minute.
        seed: Seed of all noise; layouts come from seeds of their own, from 1000 on.
        resume: File of finished blocks of episodes to go on from and to add to; a longer plan goes
            on from a shorter one.
        plan: Other numbers of episodes.

    Returns:
        Fields `success` (method, task; replanning every step, nothing pushed), `interval` (its
        95% interval), `nfe`, `cold`, `latency_ms` (median), `latency_p95_ms`, `speedup` (of
        rti_auto), `difference` (paired, with interval), `set_ups` (the rest) and `plan`.
    """
    kept = Kept(resume, {"seed": seed, "digest": _digest()})
    return _Bench(plan or (QUICK if quick else FULL), seed, kept).run()


@dataclass
class _Bench:
    plan: Plan
    seed: int
    kept: Kept

    def __post_init__(self) -> None:
        self.pipeline = WarmStartPolicyPipeline.from_pretrained(zoo.path("metaworld"))
        self.levels = replace(Levels.of(self.pipeline.scheduler), eta=0.0)

    def run(self) -> dict[str, Any]:
        found: dict[_Cell, list[dict[str, Any]]] = {}
        cells = list(self._cells())
        rollouts = {task: Rollouts(task, BLOCK) for task in self.plan.tasks}
        bar = tqdm(total=sum(cell.episodes for cell in cells), unit="episode", mininterval=5)
        with bar:
            for cell in cells:
                bar.set_description(f"{cell.method} {cell.task}")
                found[cell] = []
                for block in cell.blocks():
                    found[cell] += self.kept.part(
                        f"{cell.key}-{block[0]}-{len(block)}",
                        lambda cell=cell, block=block: self._rows(
                            cell, block, rollouts[cell.task]
                        ),
                    )
                    bar.update(len(block))
        return {**_summary(found), **self._latency(), "plan": vars(self.plan)}

    def _cells(self) -> Iterator[_Cell]:
        for method in self.plan.methods:
            for task in self.plan.tasks:
                yield _Cell(method, task, 1, False, self.plan.main)
        for replan, push in self.plan.set_ups:
            for method in self.plan.rest_methods:
                for task in self.plan.tasks:
                    yield _Cell(method, task, replan, push, self.plan.rest)

    def _rows(self, cell: _Cell, seeds: Sequence[int], rollouts: Rollouts) -> list[dict[str, Any]]:
        # Noise of its own for each block, so that it doesn't matter which others were run.
        controller = self._method(cell.method, cell.replan, self.seed + seeds[0])
        rolled = rollouts.run(controller, seeds, cell.replan, cell.push)
        return sorted((_row(episode) for episode in rolled), key=lambda row: row["seed"])

    def _method(self, name: str, replan: int = 1, seed: int = 0) -> Controller:
        net: Any = self.pipeline.denoiser
        file = "calibration.json" if replan == 1 else f"calibration_{replan}.json"
        calibration = Calibration.load(zoo.path("metaworld") / file)
        shape = self.pipeline.sampler.shape
        return make_method(name, net, self.levels, shape, calibration, seed)

    def _latency(self) -> dict[str, Any]:
        seen = []
        for task in self.plan.tasks:
            watched = Rollouts(task).run(self._method("ddim10"), [FIRST_SEED], record=True)
            seen += [e.recording.observations for e in watched if e.recording is not None]
        # Short stretches of every task, each beginning cold.
        stretch = max(self.plan.decisions // len(seen), 1)
        parts = [observations[:stretch] for observations in seen]
        controllers = {name: self._method(name) for name in self.plan.methods}
        times = decision_times(controllers, parts, self.plan.decisions)
        median = {name: float(np.median(values)) for name, values in times.items()}
        late = {name: float(np.percentile(values, 95)) for name, values in times.items()}
        over = {n: ms / median["rti_auto"] for n, ms in median.items() if n in BASELINES}
        return {"latency_ms": median, "latency_p95_ms": late, "speedup": over}


def _row(episode: Episode) -> dict[str, Any]:
    names = ("seed", "success", "steps", "decisions", "evaluations", "cold")
    return {name: getattr(episode, name) for name in names}


def _summary(found: dict[_Cell, list[dict[str, Any]]]) -> dict[str, Any]:
    results: dict[str, Any] = {name: {} for name in ("success", "interval", "nfe", "cold")}
    rest: dict[str, Any] = {}
    for cell, rows in found.items():
        rate = sum(row["success"] for row in rows) / len(rows)
        if (cell.replan, cell.push) == (1, False):
            results["success"].setdefault(cell.method, {})[cell.task] = rate
            ends = wilson(sum(row["success"] for row in rows), len(rows))
            results["interval"].setdefault(cell.method, {})[cell.task] = _ends(ends)
        else:
            name = f"every {cell.replan}{', pushed' if cell.push else ''}"
            rest.setdefault(name, {}).setdefault(cell.method, {})[cell.task] = rate
    for method in results["success"]:
        rows = [row for cell, part in _main(found, method) for row in part]
        decisions = max(sum(row["decisions"] for row in rows), 1)
        results["nfe"][method] = sum(row["evaluations"] for row in rows) / decisions
        results["cold"][method] = sum(row["cold"] for row in rows) / decisions
    return {**results, "difference": _differences(found), "set_ups": rest}


def _main(
    found: dict[_Cell, list[dict[str, Any]]], method: str
) -> list[tuple[_Cell, list[dict[str, Any]]]]:
    return [
        (cell, rows)
        for cell, rows in found.items()
        if cell.method == method and (cell.replan, cell.push) == (1, False)
    ]


def _differences(found: dict[_Cell, list[dict[str, Any]]]) -> dict[str, Any]:
    """Paired over all tasks, for every set-up in which both methods ran."""
    results: dict[str, Any] = {}
    set_ups = sorted({(cell.replan, cell.push) for cell in found})
    for ours, theirs in PAIRS:
        for replan, push in set_ups:
            pairs = [
                [
                    row["success"]
                    for cell, rows in found.items()
                    if (cell.method, cell.replan, cell.push) == (method, replan, push)
                    for row in rows
                ]
                for method in (ours, theirs)
            ]
            if pairs[0] and len(pairs[0]) == len(pairs[1]):
                value, ends = paired_difference(*pairs)
                name = f"every {replan}{', pushed' if push else ''}"
                stated = {"mean": value, "interval": _ends(ends), "episodes": len(pairs[0])}
                results.setdefault(f"{ours} minus {theirs}", {})[name] = stated
    return results


def _ends(ends: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in ends]


def _digest() -> str:
    """Of weights, calibrations and code, so that results of others are not taken for theirs."""
    digest = hashlib.blake2b(digest_size=6)
    code = Path(methods.__file__).parent.glob("*.py")
    for file in sorted([*zoo.path("metaworld").rglob("*"), *code]):
        if file.is_file() and file.name != "card.json":
            digest.update(file.read_bytes())
    return digest.hexdigest()

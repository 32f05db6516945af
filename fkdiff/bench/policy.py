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
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
FEW = 50
"""Blocks that aren't worth starting processes for."""
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
        self._rollouts: dict[str, Rollouts] = {}

    def run(self) -> dict[str, Any]:
        found: dict[_Cell, list[dict[str, Any]]] = {}
        jobs = [(cell, block) for cell in self._cells() for block in cell.blocks()]
        bar = tqdm(total=sum(len(block) for _, block in jobs), unit="episode", mininterval=5)
        with bar, self._drawn(jobs) as drawn:
            for cell, block in jobs:
                bar.set_description(f"{cell.method} {cell.task}")
                rows = self.kept.part(_name(cell, block), lambda: next(drawn))
                found.setdefault(cell, []).extend(rows)
                bar.update(len(block))
        return {**_summary(found), **self._latency(), "plan": vars(self.plan)}

    @contextmanager
    def _drawn(
        self, jobs: Sequence[tuple[_Cell, range]]
    ) -> Iterator[Iterator[list[dict[str, Any]]]]:
        """Blocks that aren't kept yet, in order, made by as many processes as there are cores.

        Each has noise of its own, so that it doesn't matter where it is made.
        """
        missing = [job for job in jobs if _name(*job) not in self.kept.parts]
        if len(missing) < FEW:
            yield map(self.rows, missing)
            return
        pool = ProcessPoolExecutor(
            os.cpu_count(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_open,
            initargs=(self.plan, self.seed),
        )
        try:
            yield pool.map(_rows, missing)
        finally:
            pool.shutdown(cancel_futures=True)

    def _cells(self) -> Iterator[_Cell]:
        for method in self.plan.methods:
            for task in self.plan.tasks:
                yield _Cell(method, task, 1, False, self.plan.main)
        for replan, push in self.plan.set_ups:
            for method in self.plan.rest_methods:
                for task in self.plan.tasks:
                    yield _Cell(method, task, replan, push, self.plan.rest)

    def rows(self, job: tuple[_Cell, range]) -> list[dict[str, Any]]:
        """Run a block of episodes."""
        cell, seeds = job
        if cell.task not in self._rollouts:
            self._rollouts[cell.task] = Rollouts(cell.task, BLOCK)
        controller = self._method(cell.method, cell.replan, self.seed + seeds[0])
        rolled = self._rollouts[cell.task].run(controller, seeds, cell.replan, cell.push)
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


_here: list[_Bench] = []
"""The bench of a worker process."""


def _open(plan: Plan, seed: int) -> None:
    torch.set_num_threads(1)
    _here.append(_Bench(plan, seed, Kept(None, {})))


def _rows(job: tuple[_Cell, range]) -> list[dict[str, Any]]:
    return _here[0].rows(job)


def _name(cell: _Cell, block: range) -> str:
    return f"{cell.key}-{block[0]}-{len(block)}"


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

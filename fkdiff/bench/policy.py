"""Success and latency of warm starts against the usual solvers and controls that should fail.

Episodes are paired: every method meets the same seeds, all held out of training. Blocks of
episodes are kept in the file of `--resume` as they end; other weights, calibrations or code want
another file.

Controls: `hold` denoises nothing, `ddim1` has no guess; `wrong_chunk` starts from another
environment's chunk and shows how much the guess matters.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
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
from fkdiff.policy.rollouts import Rollouts
from fkdiff.policy.tasks import TASKS

__all__ = ["FULL", "QUICK", "Plan", "run"]

FIRST_SEED = 1000
BLOCK = 25  # episodes that run side by side, and are kept together
FEW = 50  # blocks that aren't worth starting processes for
BASELINES = ("ddpm100", "ddim10", "ddim4")
PAIRS = (("rti_auto", "ddpm100"), ("rti_auto", "ddim10"))
_SET_UPS = ((4, False), (8, False), (1, True), (4, True), (8, True))

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    main: int  # episodes a task of `methods`, replanning every step, nothing pushed
    rest: int  # episodes a task of `rest_methods` in the other set-ups
    decisions: int  # timed for each method
    set_ups: tuple[tuple[int, bool], ...] = _SET_UPS  # actions between decisions, and pushes
    rest_methods: tuple[str, ...] = ("ddpm100", "ddim10", "rti_auto", "ddim1", "hold")
    methods: tuple[str, ...] = tuple(METHODS)  # of the main set-up, and those that are timed
    tasks: tuple[str, ...] = TASKS


_MAIN = "every 1"
FULL = Plan(main=400, rest=100, decisions=200)
QUICK = Plan(main=2, rest=2, decisions=40, set_ups=((1, True),), rest_methods=("rti_auto",))


@dataclass(frozen=True)
class _Cell:
    """A method in a task and a set-up."""

    method: str
    task: str
    replan: int
    push: bool
    episodes: int

    @property
    def set_up(self) -> str:
        return f"every {self.replan}{', pushed' if self.push else ''}"

    def name(self, block: range) -> str:
        """Name of a block, under which it is kept."""
        push = "-push" if self.push else ""
        return f"{self.method}-{self.task}-{self.replan}{push}-{block[0]}-{len(block)}"

    def blocks(self) -> Iterator[range]:
        """Seeds, a block at a time."""
        seeds = range(FIRST_SEED, FIRST_SEED + self.episodes)
        return (seeds[i : i + BLOCK] for i in range(0, len(seeds), BLOCK))


def run(
    quick: bool = False, seed: int = 0, resume: Path | None = None, plan: Plan | None = None
) -> dict[str, Any]:
    """Run what hasn't been run yet, and sum up.

    Arguments as for `run_bench`, and another plan, which goes on from a shorter one; layouts come
    from seeds of their own, from 1000 on.

    Returns:
        Fields `success` (method, task; replanning every step, nothing pushed), `interval` (its
        95% interval), `nfe`, `cold`, `latency_ms` (median), `latency_p95_ms`, `speedup` (of
        rti_auto), `difference` (paired, with interval), `set_ups` (the rest) and `plan`.
    """
    kept = Kept(resume, {"seed": seed, "digest": _digest()})
    bench = _Bench(plan or (QUICK if quick else FULL), seed)
    found: dict[_Cell, Rows] = {}
    jobs = [(cell, block) for cell in bench.cells() for block in cell.blocks()]
    missing = [job for job in jobs if job[0].name(job[1]) not in kept.parts]
    bar = tqdm(total=sum(len(block) for _, block in jobs), unit="episode", mininterval=5)
    with bar, bench.drawn(missing) as drawn:
        for cell, block in jobs:
            bar.set_description(f"{cell.method} {cell.task}")
            rows = kept.part(cell.name(block), lambda: next(drawn))
            found.setdefault(cell, []).extend(rows)
            bar.update(len(block))
    return {**_summary(found), **bench._latency(), "plan": vars(bench.plan)}


@dataclass
class _Bench:
    plan: Plan
    seed: int

    def __post_init__(self) -> None:
        self.pipeline = WarmStartPolicyPipeline.from_pretrained(zoo.path("metaworld"))
        self.levels = replace(Levels.of(self.pipeline.scheduler), eta=0.0)
        self._rollouts: dict[str, Rollouts] = {}

    @contextmanager
    def drawn(self, missing: Sequence[tuple[_Cell, range]]) -> Iterator[Iterator[Rows]]:
        """Blocks in order, made by as many processes as there are cores.

        Each has noise of its own, so that it doesn't matter where it is made.
        """
        if len(missing) < FEW:
            yield map(self.rows, missing)
            return
        pool = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
        try:
            yield pool.map(partial(_rows, self.plan, self.seed), missing)
        finally:
            pool.shutdown(cancel_futures=True)

    def cells(self) -> list[_Cell]:
        plan = self.plan
        main = product(((1, False),), plan.methods, plan.tasks)
        rest = product(plan.set_ups, plan.rest_methods, plan.tasks)
        return [
            _Cell(method, task, *set_up, episodes)
            for cells, episodes in ((main, plan.main), (rest, plan.rest))
            for set_up, method, task in cells
        ]

    def rows(self, job: tuple[_Cell, range]) -> Rows:
        """Run a block of episodes."""
        cell, seeds = job
        if cell.task not in self._rollouts:
            self._rollouts[cell.task] = Rollouts(cell.task, BLOCK)
        controller = self._method(cell.method, cell.replan, self.seed + seeds[0])
        rolled = self._rollouts[cell.task].run(controller, seeds, cell.replan, cell.push)
        names = ("seed", "success", "steps", "decisions", "evaluations", "cold")
        rows = [{name: getattr(episode, name) for name in names} for episode in rolled]
        return sorted(rows, key=lambda row: row["seed"])

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
        decisions = self.plan.decisions
        # Short stretches of every task, each beginning cold.
        parts = [observations[: max(decisions // len(seen), 1)] for observations in seen]
        controllers = {name: self._method(name) for name in self.plan.methods}
        times = decision_times(controllers, parts, decisions)
        median = {name: float(np.median(values)) for name, values in times.items()}
        late = {name: float(np.percentile(values, 95)) for name, values in times.items()}
        over = {n: ms / median["rti_auto"] for n, ms in median.items() if n in BASELINES}
        return {"latency_ms": median, "latency_p95_ms": late, "speedup": over}


_bench = cache(_Bench)  # of a worker process


def _rows(plan: Plan, seed: int, job: tuple[_Cell, range]) -> Rows:
    torch.set_num_threads(1)
    return _bench(plan, seed).rows(job)


def _summary(found: dict[_Cell, Rows]) -> dict[str, Any]:
    rates: dict[str, dict[str, dict[str, float]]] = {}
    intervals: dict[str, dict[str, list[float]]] = {}
    pooled: dict[str, dict[str, Rows]] = {}
    for cell, rows in found.items():
        hits = sum(row["success"] for row in rows)
        rates.setdefault(cell.set_up, {}).setdefault(cell.method, {})[cell.task] = hits / len(rows)
        pooled.setdefault(cell.set_up, {}).setdefault(cell.method, []).extend(rows)
        if cell.set_up == _MAIN:
            ends = _rounded(wilson(hits, len(rows)))
            intervals.setdefault(cell.method, {})[cell.task] = ends
    main = pooled.get(_MAIN, {})
    return {
        "success": rates.pop(_MAIN, {}),
        "interval": intervals,
        "nfe": {method: _per_decision(rows, "evaluations") for method, rows in main.items()},
        "cold": {method: _per_decision(rows, "cold") for method, rows in main.items()},
        "difference": _differences(pooled),
        "set_ups": rates,
    }


def _per_decision(rows: Rows, what: str) -> float:
    return sum(row[what] for row in rows) / max(sum(row["decisions"] for row in rows), 1)


def _differences(pooled: dict[str, dict[str, Rows]]) -> dict[str, Any]:
    """Paired over all tasks, for every set-up in which both methods ran."""
    results: dict[str, Any] = {}
    for ours, theirs in PAIRS:
        for name, by_method in sorted(pooled.items()):
            pair = [[row["success"] for row in by_method.get(m, [])] for m in (ours, theirs)]
            if pair[0] and len(pair[0]) == len(pair[1]):
                mean, ends = paired_difference(*pair)
                row = {"mean": mean, "interval": _rounded(ends), "episodes": len(pair[0])}
                results.setdefault(f"{ours} minus {theirs}", {})[name] = row
    return results


def _rounded(ends: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in ends]


def _digest() -> str:
    """Of weights, calibrations and code, so that results of others are not taken for theirs."""
    digest = hashlib.blake2b(digest_size=6)
    code = Path(methods.__file__).parent.glob("*.py")
    for file in sorted([*zoo.path("metaworld").rglob("*"), *code]):
        if file.is_file() and file.name != "card.json":
            digest.update(file.read_bytes())
    return digest.hexdigest()

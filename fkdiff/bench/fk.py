"""Does FK steering help, by a judge that it never saw? Equal evaluations and equal seconds."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fkdiff.bench import BenchRefused

if TYPE_CHECKING:
    from fkdiff.bench.fk_runs import Runner

__all__ = ["HARD", "Plan", "Store", "chosen_prompts", "hard_kinds", "run"]

_T = TypeVar("_T")

HARD = (0.2, 0.6)
"""Plain pass rates between which a kind of prompt is worth steering."""


@dataclass(frozen=True)
class Plan:
    """How much is drawn.

    Arguments:
        prompts: At most this many prompts of `eval`.
        seeds: Runs of each prompt.
        tune: Plain samples of each prompt of `tune`, which choose the kinds; 0 takes `kinds`.
        kinds: Kinds that are taken if none are measured.
        scaled: Prompts of the scaling curve.
        sizes: Its numbers of particles.
    """

    prompts: int = 100
    seeds: int = 4
    tune: int = 2
    kinds: tuple[str, ...] = ()
    scaled: int = 24
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)


_QUICK = Plan(prompts=3, seeds=1, tune=0, kinds=("pair", "count", "binding"), scaled=0, sizes=())


def run(
    quick: bool,
    seed: int,
    resume: Path | None = None,
    runner: "Runner | None" = None,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Compare plain, best-of-n, importance sampling, FK and its controls on prompts of `eval`.

    Best-of-n is the better of a deterministic and a stochastic solver (DDIM with eta 0 and 1),
    told over all choices of n among the samples that plain, bon4 and bon8 share. FK, its shuffled
    and constant rewards use eta 1. Intervals are a bootstrap paired by prompt. The kinds of
    prompts are those whose plain pass rate on `tune` lies between 20% and 60%.

    Arguments:
        quick: 3 prompts of kinds that are not measured first, 10 steps, no scaling.
        seed: Seed of all random numbers.
        resume: File of finished rows to go on from and to add to; the scaling plot is drawn
            beside it.
        runner: Who draws and judges, by default the zoo's models.
        plan: How much is drawn, by default 100 prompts with 4 seeds, or the quick plan.

    Returns:
        `pass_rate.*`, `ci.*`, `nfe.*`, `seconds.*`, `equal_seconds`, `monitor`, `diversity`, ...

    Raises:
        BenchRefused: If weights are missing, or the file holds rows of other settings.
    """
    from fkdiff.bench.fk_runs import Runner, Settings
    from fkdiff.bench.fk_summary import scaling, summarise

    plan = plan or (_QUICK if quick else Plan())
    runner = runner or Runner.bundled(Settings(steps=10, samples=8) if quick else Settings())
    settings = runner.settings
    store = Store(resume, {"seed": seed, **asdict(plan), **asdict(settings)})
    kinds, rates = _kinds(store, runner, plan, seed)
    prompts = chosen_prompts(kinds, plan.prompts)
    rows = _rows(store, runner, plan, prompts, seed)
    told = summarise(rows, settings.scale, seed)
    told |= {"kinds": list(kinds), "tune_pass_rate": rates, "settings": asdict(settings)}
    if plan.scaled:
        told["scaling"] = scaling(_scaled(store, runner, plan, prompts, seed), seed)
        if resume is not None:
            from fkdiff.bench.fk_plot import draw_scaling

            draw_scaling(told["scaling"], resume.with_suffix(".png"))
    return told


class Store:
    """Rows by name, kept in a file line by line so that a stopped bench goes on.

    Arguments:
        file: Rows as JSON, one a line below the settings; None to keep nothing.
        settings: What made the rows; others in the file are refused.

    Raises:
        BenchRefused: If the file was made with other settings.
    """

    def __init__(self, file: Path | None, settings: dict[str, Any]) -> None:
        self.file = file
        self.rows: dict[str, dict[str, Any]] = {}
        head = json.loads(json.dumps(settings))
        lines = self._lines()
        if lines and lines[0] != head:
            changed = [key for key in head if lines[0].get(key) != head[key]]
            raise BenchRefused(
                f"resume must name rows of these settings, got others ({', '.join(changed)}) in "
                f"{self.file}; name another file"
            )
        self.rows = {line["name"]: line for line in lines[1:]}
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            kept = [head, *self.rows.values()]  # without a line that was cut off
            self.file.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def _lines(self) -> list[dict[str, Any]]:
        if self.file is None or not self.file.is_file():
            return []
        whole = self.file.read_text().split("\n")[:-1]  # what follows the last newline is cut off
        return [json.loads(line) for line in whole]

    def get(
        self, name: str, prompt: str, make: Callable[..., dict[str, Any]], *given: Any
    ) -> dict[str, Any]:
        """The row of that name; unless it is there its runs are made and written down."""
        if name not in self.rows:
            self.rows[name] = {"name": name, "prompt": prompt, "runs": make(prompt, *given)}
            if self.file is not None:
                with self.file.open("a") as file:
                    file.write(json.dumps(self.rows[name]) + "\n")
        return self.rows[name]


def _bar(steps: Sequence[_T], told: str) -> Iterator[_T]:
    from tqdm import tqdm

    return iter(tqdm(steps, desc=told, unit="prompt"))


def _kinds(
    store: Store, runner: "Runner", plan: Plan, seed: int
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Kinds to steer, and the plain pass rate of each kind on `tune` if it was measured."""
    if not plan.tune:
        return plan.kinds, {}
    from fkdiff import zoo
    from fkdiff.zoo.parse import parse

    passed: dict[str, list[bool]] = {}
    for index, prompt in enumerate(_bar(zoo.prompts("tune"), "plain on tune")):
        own = _seed(seed, index, plan.seeds)
        row = store.get(f"tune {index}", prompt, runner.both, plan.tune, own)
        for run in row["runs"].values():
            passed.setdefault(parse(prompt).kind, []).extend(run["passed"])
    rates = {kind: sum(values) / len(values) for kind, values in passed.items()}
    return hard_kinds(rates), rates


def hard_kinds(rates: dict[str, float]) -> tuple[str, ...]:
    """Kinds whose plain pass rate lies in `HARD`; the nearest one if none does.

    >>> hard_kinds({"single": 0.9, "pair": 0.5, "four": 0.1})
    ('pair',)
    """
    kinds = tuple(kind for kind, rate in rates.items() if HARD[0] <= rate <= HARD[1])
    return kinds or (min(rates, key=lambda kind: abs(rates[kind] - sum(HARD) / 2)),)


def chosen_prompts(kinds: Sequence[str], most: int) -> list[str]:
    """Prompts of `eval` of these kinds, at most so many, the kinds in turn.

    >>> len(chosen_prompts(("pair", "count"), 4)), len(chosen_prompts(("pair",), 1000))
    (4, 26)
    """
    from fkdiff import zoo
    from fkdiff.zoo.parse import parse

    by_kind: dict[str, list[str]] = {kind: [] for kind in kinds}
    for prompt in zoo.prompts("eval"):
        by_kind.get(parse(prompt).kind, []).append(prompt)
    longest = max(map(len, by_kind.values()))
    turns = [of[i] for i in range(longest) for of in by_kind.values() if i < len(of)]
    return turns[:most]


def _rows(
    store: Store, runner: "Runner", plan: Plan, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    units = [(i, s) for s in range(plan.seeds) for i in range(len(prompts))]
    rows = []
    for i, s in _bar(units, "arms"):
        other = prompts[(i + len(prompts) // 2) % len(prompts)]
        own = _seed(seed, i, s)
        rows.append(store.get(f"arms {i} {s}", prompts[i], runner.arms, other, own))
    return rows


def _scaled(
    store: Store, runner: "Runner", plan: Plan, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(_bar(prompts[: plan.scaled], "scaling")):
        own = _seed(seed, i, plan.seeds)
        rows.append(store.get(f"scaling {i}", prompt, runner.scaled, plan.sizes, own))
    return rows


def _seed(*parts: int) -> int:
    """A seed of its own for each prompt and repetition: prompts must not share their noise."""
    from numpy.random import SeedSequence

    return int(SeedSequence(parts).generate_state(1)[0])

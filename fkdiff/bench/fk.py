"""Does FK steering help, by a judge that it never saw? Equal evaluations and equal seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fkdiff.bench.kept import Kept

if TYPE_CHECKING:
    from fkdiff.bench.fk_runs import Runner

__all__ = [
    "HARD",
    "Plan",
    "chosen_prompts",
    "hard_kinds",
    "progress",
    "run",
    "seed_of",
]

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
    runner = runner or Runner.bundled(Settings(steps=10) if quick else Settings())
    settings = runner.settings
    kept = Kept(resume, {"seed": seed, **asdict(plan), **asdict(settings), **runner.models})
    kinds, rates = _kinds(kept, runner, plan, seed)
    prompts = chosen_prompts(kinds, plan.prompts)
    rows = _rows(kept, runner, plan, prompts, seed)
    told = summarise(rows, settings.scale, seed)
    told |= {"kinds": list(kinds), "tune_pass_rate": rates, "settings": asdict(settings)}
    if plan.scaled:
        told["scaling"] = scaling(_scaled(kept, runner, plan, prompts, seed), seed)
        if resume is not None:
            from fkdiff.bench.fk_plot import draw_scaling

            draw_scaling(told["scaling"], resume.with_suffix(".png"))
    return told


def progress(steps: Sequence[_T], told: str) -> Iterator[_T]:
    """The steps, with a progress bar."""
    from tqdm import tqdm

    return iter(tqdm(steps, desc=told, unit="prompt"))


def _kinds(
    kept: Kept, runner: "Runner", plan: Plan, seed: int
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Kinds to steer, and the plain pass rate of each kind on `tune` if it was measured."""
    if not plan.tune:
        return plan.kinds, {}
    from fkdiff import zoo
    from fkdiff.zoo.parse import parse

    passed: dict[str, list[bool]] = {}
    for index, prompt in enumerate(progress(zoo.prompts("tune"), "plain on tune")):
        own = seed_of(seed, index, plan.seeds)
        make = partial(runner.both, prompt, plan.tune, own)
        for run in kept.part(f"tune {index}", make).values():
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


def chosen_prompts(kinds: Sequence[str], most: int, of: str = "eval") -> list[str]:
    """Prompts of a list that are of these kinds, at most so many, the kinds in turn.

    >>> len(chosen_prompts(("pair", "count"), 4)), len(chosen_prompts(("pair",), 1000))
    (4, 26)
    """
    from fkdiff import zoo
    from fkdiff.zoo.parse import parse

    by_kind: dict[str, list[str]] = {kind: [] for kind in kinds}
    for prompt in zoo.prompts(of):
        by_kind.get(parse(prompt).kind, []).append(prompt)
    longest = max(map(len, by_kind.values()))
    turns = [each[i] for i in range(longest) for each in by_kind.values() if i < len(each)]
    return turns[:most]


def _rows(
    kept: Kept, runner: "Runner", plan: Plan, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    units = [(i, s) for s in range(plan.seeds) for i in range(len(prompts))]
    rows = []
    for i, s in progress(units, "arms"):
        other = prompts[(i + len(prompts) // 2) % len(prompts)]
        own = seed_of(seed, i, s)
        runs = kept.part(f"arms {i} {s}", partial(runner.arms, prompts[i], other, own))
        rows.append({"prompt": prompts[i], "runs": runs})
    return rows


def _scaled(
    kept: Kept, runner: "Runner", plan: Plan, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(progress(prompts[: plan.scaled], "scaling")):
        own = seed_of(seed, i, plan.seeds)
        runs = kept.part(f"scaling {i}", partial(runner.scaled, prompt, plan.sizes, own))
        rows.append({"prompt": prompt, "runs": runs})
    return rows


def seed_of(*parts: int) -> int:
    """A seed of its own for each prompt and repetition: prompts must not share their noise."""
    from numpy.random import SeedSequence

    return int(SeedSequence(parts).generate_state(1)[0])

"""Does FK steering help, by a judge that it never saw? Equal evaluations and equal seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from numpy.random import SeedSequence
from tqdm import tqdm

from fkdiff import zoo
from fkdiff.bench.fk_plot import draw_scaling
from fkdiff.bench.fk_runs import Runner, Settings
from fkdiff.bench.fk_summary import scaling, summarise
from fkdiff.bench.kept import Kept
from fkdiff.zoo.parse import parse

__all__ = ["HARD", "Plan", "chosen_prompts", "hard_kinds", "run", "seed_of"]

HARD = (0.2, 0.6)  # plain pass rates between which a kind of prompt is worth steering


@dataclass(frozen=True)
class Plan:
    """How much is drawn."""

    prompts: int = 100  # of `eval`, at most
    seeds: int = 4  # runs of each prompt
    tune: int = 2  # plain samples of each prompt of `tune`, which choose the kinds; 0: `kinds`
    kinds: tuple[str, ...] = ()  # that are taken if none are measured
    scaled: int = 24  # prompts of the scaling curve
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # its numbers of particles


_QUICK = Plan(prompts=3, seeds=1, tune=0, kinds=("pair", "count", "binding"), scaled=0, sizes=())


def run(
    quick: bool,
    seed: int,
    resume: Path | None = None,
    runner: Runner | None = None,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Compare plain, best-of-n, importance sampling, FK and its controls on prompts of `eval`.

    Best-of-n is the better of a deterministic and a stochastic solver (DDIM with eta 0 and 1),
    the mean over all choices of n among the samples that plain, bon4 and bon8 share. FK, its
    shuffled and constant rewards use eta 1. Intervals are a bootstrap paired by prompt. The kinds
    of prompts are those whose plain pass rate on `tune` lies between 20% and 60%.

    Arguments as for `run_bench`; `runner` draws and judges, by default with the zoo's models,
    `plan` says how much. The scaling plot is drawn beside the file of `resume`.

    Returns:
        What `summarise` returns, with the kinds of prompts and the scaling curve.
    """
    plan = plan or (_QUICK if quick else Plan())
    runner = runner or Runner.bundled(Settings(steps=10) if quick else Settings())
    settings = asdict(runner.settings)
    kept = Kept(resume, {"seed": seed, **asdict(plan), **settings, **runner.models})
    rates = _tune_rates(kept, runner, plan, seed)
    kinds = hard_kinds(rates) if rates else plan.kinds
    prompts = chosen_prompts(kinds, plan.prompts)
    rows = []
    for s, i in tqdm(list(product(range(plan.seeds), range(len(prompts)))), "arms", unit="prompt"):
        other = prompts[(i + len(prompts) // 2) % len(prompts)]
        make = partial(runner.arms, prompts[i], other, seed_of(seed, i, s))
        rows.append({"prompt": prompts[i], "runs": kept.part(f"arms {i} {s}", make)})
    found = summarise(rows, runner.settings.scale, seed)
    found |= {"kinds": list(kinds), "tune_pass_rate": rates, "settings": settings}
    if plan.scaled:
        rows = []
        for i, prompt in enumerate(tqdm(prompts[: plan.scaled], "scaling", unit="prompt")):
            make = partial(runner.scaled, prompt, plan.sizes, seed_of(seed, i, plan.seeds))
            rows.append({"prompt": prompt, "runs": kept.part(f"scaling {i}", make)})
        found["scaling"] = scaling(rows, seed)
        if resume is not None:
            draw_scaling(found["scaling"], resume.with_suffix(".png"))
    return found


def _tune_rates(kept: Kept, runner: Runner, plan: Plan, seed: int) -> dict[str, float]:
    """Plain pass rate of each kind on `tune`; empty where the plan measures none."""
    passed: dict[str, list[bool]] = {}
    prompts = zoo.prompts("tune") if plan.tune else []
    for i, prompt in enumerate(tqdm(prompts, "plain on tune", unit="prompt", disable=not prompts)):
        make = partial(runner.both, prompt, plan.tune, seed_of(seed, i, plan.seeds))
        for run in kept.part(f"tune {i}", make).values():
            passed.setdefault(parse(prompt).kind, []).extend(run["passed"])
    return {kind: sum(values) / len(values) for kind, values in passed.items()}


def hard_kinds(rates: Mapping[str, float]) -> tuple[str, ...]:
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
    by_kind: dict[str, list[str]] = {kind: [] for kind in kinds}
    for prompt in zoo.prompts(of):
        by_kind.get(parse(prompt).kind, []).append(prompt)
    turns = zip_longest(*by_kind.values())
    return [prompt for turn in turns for prompt in turn if prompt is not None][:most]


def seed_of(*parts: int) -> int:
    """A seed of its own for each prompt and repetition: prompts must not share their noise."""
    return int(SeedSequence(parts).generate_state(1)[0])

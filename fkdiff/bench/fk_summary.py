"""Results of the FK bench from its rows: rates, paired intervals, costs, controls.

A row is one prompt and seed with its runs; a run is a cloud of samples with the judge's verdict on
each. An arm is a choice among a run's samples, so that plain, best-of-n and importance sampling
share the very same samples.
"""

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOUD", "SCALES", "best_of", "interval", "scaling", "summarise"]

Row: TypeAlias = Mapping[str, Any]
Floats: TypeAlias = NDArray[np.float64]

CLOUD = 8  # samples that importance sampling weighs
SCALES = (1, 2, 4, 8, 16, 32)
_SOLVERS = ("ode", "sde")
_BEST = ("plain", "bon4", "bon8")
_OTHERS = ("importance", "fk4", "fk8", "shuffled", "constant")
_PAIRS = (
    ("fk4", "plain"),
    ("fk4", "bon4"),
    ("fk8", "plain"),
    ("fk8", "bon8"),
    ("shuffled", "plain"),
    ("constant", "plain"),
    ("importance", "plain"),
)


def best_of(rewards: Sequence[float], n: int) -> Floats:
    r"""Chance of each sample to be the best of n, over all choices of n among the N samples.

    $$P(\text{rank } j) = \binom{N - 1 - j}{n - 1} \Big/ \binom{N}{n}$$

    Arguments:
        rewards: N rewards; of equal ones the first counts as better.
        n: Samples chosen among, from 1 (a plain sample) to N.

    Raises:
        ValueError: If there are fewer than n samples.

    >>> best_of([0.1, 0.9, 0.5], 2).tolist()
    [0.0, 0.6666666666666666, 0.3333333333333333]
    """
    total = len(rewards)
    if not 1 <= n <= total:
        raise ValueError(f"n must be from 1 to the {total} samples, got {n}")
    order = np.argsort(-np.asarray(rewards), kind="stable")
    chance = np.zeros(total)
    chance[order] = [comb(total - 1 - j, n - 1) / comb(total, n) for j in range(total)]
    return chance


def interval(values: Floats, seed: int, draws: int = 2000) -> list[float]:
    """95% bootstrap interval of the mean over prompts, shape (prompts,); prompts are redrawn.

    >>> interval(np.full(5, 0.25), seed=0)
    [0.25, 0.25]
    """
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return [float(low), float(high)]


def summarise(rows: Sequence[Row], scale: float, seed: int) -> dict[str, Any]:
    """Every field of the bench that follows from its rows.

    Rows have the runs "ode", "sde", "fk4", "fk8", "shuffled" and "constant"; the scale is that of
    the tilt, on calibrated rewards; the seed is that of the bootstrap.

    Returns:
        `pass_rate`, `ci` (of arms and of paired differences), `solver`, `nfe`, `seconds`,
        `equal_seconds`, `reward`, `monitor`, `diversity` and `ancestors` by arm.
    """
    names = [f"{arm}.{solver}" for arm in _BEST for solver in _SOLVERS]
    by_solver = {name: _by_prompt(rows, name, scale, "passed") for name in names}
    solver = {arm: max(_SOLVERS, key=lambda s: by_solver[f"{arm}.{s}"].mean()) for arm in _BEST}
    source = {arm: f"{arm}.{solver[arm]}" for arm in _BEST} | {arm: arm for arm in _OTHERS}

    def means(what: str) -> dict[str, float]:
        values = {arm: _by_prompt(rows, name, scale, what) for arm, name in source.items()}
        return {arm: float(value.mean()) for arm, value in values.items()}

    def of_runs(what: str, *runs: str) -> dict[str, float]:
        return {r: float(np.mean([row["runs"][r][what] for row in rows])) for r in runs}

    shown = {arm: _by_prompt(rows, name, scale, "passed") for arm, name in source.items()}
    pairs = {f"{a}_minus_{b}": interval(shown[a] - shown[b], seed) for a, b in _PAIRS}
    seconds = means("seconds")
    return {
        "pass_rate": {arm: float(values.mean()) for arm, values in shown.items()},
        "ci": {arm: interval(values, seed) for arm, values in shown.items()} | pairs,
        "solver": solver,
        "by_solver": {name: float(values.mean()) for name, values in by_solver.items()},
        "nfe": means("nfe"),
        "seconds": seconds,
        "equal_seconds": _equal_seconds(rows, seconds, solver["bon8"]),
        "reward": means("reward"),
        "monitor": {name: means(name) for name in rows[0]["runs"]["ode"]["monitor"]},
        "diversity": of_runs("diversity", *_SOLVERS, "fk4", "fk8"),
        "ancestors": of_runs("ancestors", "fk4", "fk8"),
        "prompts": len(shown["plain"]),
        "rows": len(rows),
    }


def _chances(row: Row, arm: str, scale: float) -> tuple[Mapping[str, Any], Floats, float]:
    """Run that an arm chooses from, chance of each of its samples, share of the run it needs."""
    name, _, solver = arm.partition(".")
    if name == "importance":
        run = row["runs"]["sde"]
        logits = scale * np.asarray(run["calibrated"][:CLOUD])
        chance = np.zeros(len(run["reward"]))
        chance[:CLOUD] = np.exp(logits - logits.max())
        return run, chance / chance.sum(), CLOUD / len(chance)
    run = row["runs"][solver or name]
    if solver:
        n = 1 if name == "plain" else int(name.removeprefix("bon"))
        return run, best_of(run["reward"], n), n / len(run["reward"])
    return run, np.eye(len(run["reward"]))[run["chosen"]], 1.0


def _by_prompt(rows: Sequence[Row], arm: str, scale: float, what: str) -> Floats:
    """What an arm gives or spends, means over the seeds of each prompt, shape (prompts,)."""
    found: dict[str, list[float]] = {}
    for row in rows:
        run, chance, share = _chances(row, arm, scale)
        if what in ("nfe", "seconds"):
            value = share * run[what]
        else:
            values = run["monitor"][what] if what in run["monitor"] else run[what]
            value = float(chance @ np.asarray(values, dtype=float))
        found.setdefault(row["prompt"], []).append(value)
    return np.array([float(np.mean(values)) for values in found.values()], dtype=np.float64)


def _equal_seconds(
    rows: Sequence[Row], seconds: Mapping[str, float], solver: str
) -> dict[str, dict[str, float]]:
    """Best-of-n with as many samples as fit into a steered run's seconds."""
    found: dict[str, dict[str, float]] = {}
    for arm in ("fk4", "fk8"):
        fits = int(seconds[arm] / seconds["plain"])
        n = min(max(fits, 1), len(rows[0]["runs"][solver]["reward"]))
        rate = float(_by_prompt(rows, f"bon{n}.{solver}", 1.0, "passed").mean())
        found[arm] = {"bon": n, "would_fit": fits, "pass_rate": rate}
    return found


def scaling(rows: Sequence[Row], seed: int) -> dict[str, dict[str, list[float]]]:
    """Pass rate and its interval by particles, `[rate, low, high]`, for FK and for best-of-n.

    Rows have the runs "ode" and "sde" of 32 samples, and "fk1" to "fk32".
    """
    found: dict[str, dict[str, list[float]]] = {"fk": {}, "bon": {}}
    for n in (n for n in SCALES if f"fk{n}" in rows[0]["runs"]):
        names = (f"fk{n}", *(f"bon{n}.{solver}" for solver in _SOLVERS))
        steered, *best = (_by_prompt(rows, name, 1.0, "passed") for name in names)
        for name, values in (("fk", steered), ("bon", max(best, key=np.mean))):
            found[name][str(n)] = [float(values.mean()), *interval(values, seed)]
    return found

"""What the FK bench says, told from its rows alone: rates, paired intervals, costs, controls.

A row is one prompt and seed with its runs; a run is a cloud of samples with the judge's verdict on
each. An arm is a choice among a run's samples, so that plain, best-of-n and importance sampling
are told from the very same samples.
"""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOUD", "SCALES", "best_of", "interval", "scaling", "summarise"]

Run: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Mapping[str, Any]
Floats: TypeAlias = NDArray[np.float64]

CLOUD = 8  # samples that importance sampling weighs
SCALES = (1, 2, 4, 8, 16, 32)
_SOLVERS = ("ode", "sde")
_BEST = {"plain": 1, "bon4": 4, "bon8": 8}
_STEERED = ("fk4", "fk8", "shuffled", "constant")
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
    """Every field of the bench that its rows tell.

    Arguments:
        rows: Rows with the runs "ode", "sde", "fk4", "fk8", "shuffled" and "constant".
        scale: Scale of the tilt, on calibrated rewards.
        seed: Seed of the bootstrap.

    Returns:
        `pass_rate`, `ci` (of arms and of paired differences), `solver`, `nfe`, `seconds`,
        `equal_seconds`, `reward`, `monitor`, `diversity` and `ancestors` by arm.
    """
    passed = {arm: _by_prompt(rows, arm, scale, "passed") for arm in _arms()}
    solver = {arm: max(_SOLVERS, key=lambda s: passed[f"{arm}.{s}"].mean()) for arm in _BEST}
    source = {arm: f"{arm}.{solver[arm]}" for arm in _BEST} | {a: a for a in _others()}
    shown = {arm: passed[name] for arm, name in source.items()}
    pairs = {f"{a}_minus_{b}": interval(shown[a] - shown[b], seed) for a, b in _PAIRS}
    cost = {kind: _means(rows, source, scale, kind) for kind in ("nfe", "seconds")}
    return {
        "pass_rate": {arm: float(values.mean()) for arm, values in shown.items()},
        "ci": {arm: interval(values, seed) for arm, values in shown.items()} | pairs,
        "solver": solver,
        "by_solver": {name: float(passed[name].mean()) for name in passed if "." in name},
        **cost,
        "equal_seconds": _equal_seconds(rows, cost["seconds"], solver["bon8"]),
        "reward": _means(rows, source, scale, "reward"),
        "monitor": {m: _means(rows, source, scale, m) for m in rows[0]["runs"]["ode"]["monitor"]},
        "diversity": {r: _mean(rows, r, "diversity") for r in (*_SOLVERS, "fk4", "fk8")},
        "ancestors": {r: _mean(rows, r, "ancestors") for r in ("fk4", "fk8")},
        "prompts": len(next(iter(shown.values()))),
        "rows": len(rows),
    }


def _others() -> tuple[str, ...]:
    return ("importance", *_STEERED)


def _arms() -> list[str]:
    return [f"{arm}.{solver}" for arm in _BEST for solver in _SOLVERS] + list(_others())


def _chances(row: Row, arm: str, scale: float) -> tuple[Run, Floats, float]:
    """Run that an arm chooses from, chance of each of its samples, share of the run it needs."""
    runs = row["runs"]
    name, _, solver = arm.partition(".")
    if name in _BEST:
        run, n = runs[solver], _BEST[name]
        return run, best_of(run["reward"], n), n / len(run["reward"])
    if name == "importance":
        run = runs["sde"]
        logits = scale * np.asarray(run["calibrated"][:CLOUD])
        chance = np.zeros(len(run["reward"]))
        chance[:CLOUD] = np.exp(logits - logits.max())
        return run, chance / chance.sum(), CLOUD / len(chance)
    run = runs[name]
    return run, np.eye(len(run["reward"]))[run["chosen"]], 1.0


def _value(row: Row, arm: str, scale: float, what: str) -> float:
    run, chance, share = _chances(row, arm, scale)
    if what in ("nfe", "seconds"):
        return share * run[what]
    values = run["monitor"][what] if what in run["monitor"] else run[what]
    return float(chance @ np.asarray(values, dtype=float))


def _by_prompt(rows: Sequence[Row], arm: str, scale: float, what: str) -> Floats:
    """Means over the seeds of each prompt, shape (prompts,)."""
    return _grouped(rows, lambda row: _value(row, arm, scale, what))


def _grouped(rows: Sequence[Row], value: Callable[[Row], float]) -> Floats:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["prompt"], []).append(value(row))
    return np.array([float(np.mean(values)) for values in found.values()], dtype=np.float64)


def _means(
    rows: Sequence[Row], source: Mapping[str, str], scale: float, what: str
) -> dict[str, float]:
    return {arm: float(_by_prompt(rows, name, scale, what).mean()) for arm, name in source.items()}


def _mean(rows: Sequence[Row], run: str, what: str) -> float:
    return float(np.mean([row["runs"][run][what] for row in rows]))


def _equal_seconds(
    rows: Sequence[Row], seconds: Mapping[str, float], solver: str
) -> dict[str, dict[str, float]]:
    """Best-of-n with as many samples as fit into a steered run's seconds."""
    told: dict[str, dict[str, float]] = {}
    samples = len(rows[0]["runs"][solver]["reward"])
    for arm in ("fk4", "fk8"):
        fits = int(seconds[arm] / seconds["plain"])
        n = min(max(fits, 1), samples)
        rate = _grouped(rows, lambda row, n=n: _best_rate(row["runs"][solver], n)).mean()
        told[arm] = {"bon": n, "would_fit": fits, "pass_rate": float(rate)}
    return told


def _best_rate(run: Run, n: int) -> float:
    return float(best_of(run["reward"], n) @ np.asarray(run["passed"], dtype=float))


def scaling(rows: Sequence[Row], seed: int) -> dict[str, dict[str, list[float]]]:
    """Pass rate and its interval by particles, `[rate, low, high]`, for FK and for best-of-n.

    Arguments:
        rows: Rows with the runs "ode" and "sde" of 32 samples, and "fk1" to "fk32".
        seed: Seed of the bootstrap.
    """
    told: dict[str, dict[str, list[float]]] = {"fk": {}, "bon": {}}
    for n in (n for n in SCALES if f"fk{n}" in rows[0]["runs"]):
        steered = _grouped(rows, lambda row, n=n: _value(row, f"fk{n}", 1.0, "passed"))
        best = [
            _grouped(rows, lambda row, n=n, s=s: _best_rate(row["runs"][s], n)) for s in _SOLVERS
        ]
        for name, values in (("fk", steered), ("bon", max(best, key=np.mean))):
            told[name][str(n)] = [float(values.mean()), *interval(values, seed)]
    return told

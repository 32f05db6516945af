"""Correctors against quadrature: mixtures on the line with exact scores, weighted and not."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff import Anneal, Correct, Grid, Product, Resample, Tilt, as_reward, sample
from fkdiff.bench.kept import Kept
from fkdiff.bench.mixtures import Mixture, cells, quadrature
from fkdiff.bench.tables import by_field, means, standard_error

__all__ = ["CASES", "run"]

Q1 = Mixture((0.55, 0.30, 0.15), (-3.0, 0.5, 3.5), (0.6, 0.9, 0.5))
Q2 = Mixture((0.35, 0.65), (-2.0, 2.5), (1.0, 0.8))
STEPS = (20, 50, 200)


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    pool: tuple[tuple[float, Mixture], ...]  # exponents and laws whose product is the target
    terms: tuple[Any, ...] = ()  # that make this pool of the first law and of guidance
    guidance: float = 1.0  # the unconditional law is Q1, the conditional one Q2
    zeta: Any = 1.0  # noise of the moves
    tilted: bool = False  # by a reward
    moments: tuple[float, float] = (0.0, 2.0)  # mean and variance of the drift control


def _tilt(x: Tensor) -> Tensor:
    return 0.8 * torch.sin(2 * x) + 0.4 * x


_TIMES_Q2 = Product(Q2.score)
CASES: Mapping[str, Case] = {
    "anneal_2.5": Case(((2.5, Q1),), (Anneal(2.5),)),
    "anneal_2.5_tempered": Case(((2.5, Q1),), (Anneal(2.5),), zeta="tempered"),
    "anneal_0.5": Case(((0.5, Q1),), (Anneal(0.5),)),
    "anneal_0.5_tempered": Case(((0.5, Q1),), (Anneal(0.5),), zeta="tempered"),
    "cfg_2": Case(((-1.0, Q1), (2.0, Q2)), guidance=2.0),
    "average": Case(((0.4, Q1), (0.6, Q2)), guidance=0.6),
    "product": Case(((1.0, Q1), (1.0, Q2)), (_TIMES_Q2,)),
    "product_annealed": Case(((2.0, Q1), (2.0, Q2)), (_TIMES_Q2, Anneal(2.0)), moments=(0.5, 4.0)),
    "cfg_1.5_annealed": Case(((-0.75, Q1), (2.25, Q2)), (Anneal(1.5),), guidance=1.5),
    "tilt": Case(((1.0, Q1),), tilted=True),
    "product_tilt": Case(((1.0, Q1), (1.0, Q2)), (_TIMES_Q2,), tilted=True),
}


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Total variation from quadrature, and the normaliser's error; arguments as for `run_bench`.

    Returns:
        `tv.CASE.{weighted,unweighted,floor}` with their standard errors under `tv_se`,
        `z.CASE` (paired z-score of unweighted over weighted), `z_ratio.CASE`, `z_se.CASE`, and
        `steps.N.CASE.{weighted,unweighted,log_z_error}` for 20, 50 and 200 steps.
    """
    seeds, particles, steps = (2, 1000, 60) if quick else (10, 8000, 400)
    counts = (steps,) if quick else (steps, *STEPS)
    kept = Kept(resume, {"particles": particles, "steps": counts, "seed": seed, "seeds": seeds})
    rows: dict[int, dict[str, Any]] = {count: defaultdict(list) for count in counts}
    jobs = list(product(counts, range(seed, seed + seeds), ("vp", "ve"), CASES))
    for count, s, path, name in tqdm(jobs, desc="correctors", mininterval=5):
        make = partial(_measure, path, name, count, particles, s)
        for case, row in kept.part(f"{path}_{name}/{count}/{s}", make).items():
            rows[count][case].append(row)
    results = by_field({case: _summary(found) for case, found in rows.pop(steps).items()})
    kinds = ("weighted", "unweighted", "log_z_error")
    for count, cases in rows.items():
        table = {case: means(found, kinds) for case, found in cases.items()}
        results.setdefault("steps", {})[str(count)] = table
    return {**results, "seeds": seeds, "particles": particles, "steps_main": steps}


def _measure(
    path: str, name: str, steps: int, particles: int, seed: int
) -> dict[str, dict[str, float]]:
    """Rows of a case, with drift control and without where there is one."""
    case, grid = CASES[name], _grid(path, steps)
    first = case.pool[-1][1] if case.guidance != 1 else case.pool[0][1]
    denoisers: dict[str, Any] = {"cond": first.score, "uncond": Q1.score}
    reward = as_reward(lambda x: _tilt(x.flatten()), name="tilt", inputs="latents")

    def cloud(resample: Resample | None, *more: Any, control: bool | None = None) -> Any:
        terms = (*case.terms, *more, Correct(case.zeta, control, *case.moments))
        options: dict[str, Any] = {"particles": particles, "resample": resample, "seed": seed}
        options |= {"guidance": case.guidance, "dtype": torch.float64}
        return sample(denoisers, grid, *terms, shape=(1,), **options)

    tilts = [Tilt(reward)] if case.tilted else []
    # Drift control is on by default where the exponents don't sum to one.
    controlled = abs(sum(b for b, _ in case.pool) - 1) > 1e-9
    controls = {"": None, "_nocontrol": False} if controlled else {"": None}
    edges, exact, log_z = quadrature(case.pool, _tilt if case.tilted else torch.zeros_like)
    even = torch.full((particles,), 1 / particles, dtype=torch.float64)
    # The same moves with no weights at all: what is sampled where nothing is corrected.
    bare = cells(cloud(None, control=False).latents.flatten(), even, edges)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(exact, particles, True, generator=generator)
    floor = torch.bincount(draws, minlength=len(exact)) / particles
    rows = {}
    for suffix, control in controls.items():
        found = cloud(Resample(window=(0, 1)), *tilts, control=control)
        weighted = cells(found.latents.flatten(), found.weights[0], edges)
        laws = {"weighted": weighted, "unweighted": bare, "floor": floor}
        row = {kind: _total_variation(law, exact) for kind, law in laws.items()}
        rows[f"{path}_{name}{suffix}"] = row | {"log_z_error": float(found.log_z[0]) - log_z}
    return rows


def _grid(path: str, steps: int) -> Grid:
    """Levels from log-SNR -9 to 9, denser in the middle, where the laws take shape."""
    places = [2 * i / (steps - 1) - 1 for i in range(steps)]
    levels = []
    for log_snr in (9 * (0.35 * u + 0.65 * u**3) for u in places):
        alpha = math.sqrt(1 / (1 + math.exp(-log_snr))) if path == "vp" else 1.0
        levels.append((alpha, alpha * math.exp(-log_snr / 2)))
    return Grid((*levels, (1.0, 0.0)), "score")


def _total_variation(found: Tensor, exact: Tensor) -> float:
    outside = max(0.0, 1 - float(found.sum()))
    return float((found - exact).abs().sum() / 2) + outside / 2


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """The fields of a case."""
    kinds = ("weighted", "unweighted", "floor")
    gains = [row["unweighted"] - row["weighted"] for row in rows]
    # Uncontrolled runs of few steps can miss Z by more than a float's exponent holds.
    ratios = [math.exp(min(row["log_z_error"], 700)) for row in rows]
    return {
        "tv": means(rows, kinds),
        "tv_se": {kind: standard_error([row[kind] for row in rows]) for kind in kinds},
        "z": statistics.mean(gains) / max(standard_error(gains), 1e-12),
        "z_ratio": statistics.mean(ratios),
        "z_se": standard_error(ratios),
    }

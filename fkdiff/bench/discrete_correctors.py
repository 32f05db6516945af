"""Discrete correctors against enumeration: three letters, length four, exact denoisers."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff.bench.kept import Kept
from fkdiff.bench.one_thread import one_thread
from fkdiff.bench.token_laws import TokenLaw
from fkdiff.processes import MaskedPath
from fkdiff.smc import Resample
from fkdiff.terms import Anneal, DiscreteCorrect, Product, Tilt, as_reward
from fkdiff.tokens.sampling import sample_tokens

__all__ = ["CASES", "Q1", "Q2", "run"]

Q1, Q2 = TokenLaw(1), TokenLaw(2)
REWARD = 1.2 * torch.randn(81, generator=torch.Generator().manual_seed(3)).double()


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Arguments:
        powers: Exponents of the two laws in the target.
        terms: What makes that pool of the first law and of guidance.
        guidance: Guidance scale; Q1 is the unconditional law and Q2 the conditional one.
        tilted: Whether a reward tilts it.
    """

    powers: tuple[float, float]
    terms: tuple[Any, ...] = ()
    guidance: float = 1.0
    tilted: bool = False

    @property
    def target(self) -> Tensor:
        """Unnormalised law of the 81 outcomes."""
        law = Q1.mass ** self.powers[0] * Q2.mass ** self.powers[1]
        return law * REWARD.exp() if self.tilted else law

    @property
    def denoisers(self) -> dict[str, Any]:
        """By name, as `sample_tokens` takes them."""
        cond = Q1 if self.guidance == 1 else Q2
        return {"cond": cond.denoiser, "uncond": Q1.denoiser}

    @property
    def all_terms(self) -> tuple[Any, ...]:
        """Pool terms, and the tilt where there is one."""
        reward = as_reward(lambda x: REWARD[Q1.index(x)], name="r", inputs="tokens")
        return (*self.terms, Tilt(reward, draws=8)) if self.tilted else self.terms


_TIMES_Q2 = Product(Q2.denoiser)
CASES: Mapping[str, Case] = MappingProxyType(
    {
        "anneal_2": Case((2.0, 0.0), (Anneal(2.0),)),
        "anneal_0.5": Case((0.5, 0.0), (Anneal(0.5),)),
        "cfg_1.5": Case((-0.5, 1.5), guidance=1.5),
        "product": Case((1.0, 1.0), (_TIMES_Q2,)),
        "tilt": Case((1.0, 0.0), tilted=True),
        "anneal_2_tilt": Case((2.0, 0.0), (Anneal(2.0),), tilted=True),
    }
)


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Total variation from the enumerated law, case by case.

    Arguments:
        quick: 2 seeds and 1000 particles in place of 10 and 4000.
        seed: First seed.
        resume: File of finished parts to go on from and to add to.

    Returns:
        `tv.CASE.{automatic,published,unweighted,floor}` with standard errors under `tv_se`, the
        ratio of automatic to floor under `ratio`, and `z_ratio` (mean of exp(log Z) over its
        exact value) for both rate scales. The floor is that of as many independent draws.
    """
    seeds, particles, steps = (2, 1000, 40) if quick else (10, 4000, 40)
    settings = {"seed": seed, "seeds": seeds, "particles": particles, "steps": steps}
    kept = Kept(resume, settings)
    results: dict[str, Any] = {n: {} for n in ("tv", "tv_se", "ratio", "z_ratio")}
    for name, case in tqdm(CASES.items(), desc="discrete_correctors", mininterval=5):
        rows = [
            kept.part(f"{name}/{s}", lambda c=case, s=s: _measure(c, particles, steps, s))
            for s in range(seed, seed + seeds)
        ]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        means = {key: statistics.mean(values) for key, values in columns.items()}
        kinds = ("automatic", "published", "unweighted", "floor")
        results["tv"][name] = {k: means[k] for k in kinds}
        results["tv_se"][name] = {k: statistics.stdev(columns[k]) / seeds**0.5 for k in kinds}
        results["ratio"][name] = means["automatic"] / means["floor"]
        results["z_ratio"][name] = {k: means[f"z_{k}"] for k in ("automatic", "published")}
    return {**results, "settings": settings}


def _measure(case: Case, particles: int, steps: int, seed: int) -> dict[str, float]:
    mass = case.target.sum()
    exact = case.target / mass
    template = torch.full((1, Q1.length), -1)
    path = MaskedPath(steps, mask=Q1.letters)

    def cloud(*more: Any) -> Any:
        return sample_tokens(
            case.denoisers,
            path,
            *more,
            template=template,
            guidance=case.guidance,
            particles=particles,
            resample=Resample(window=(0.0, 1.0)),
            seed=seed,
        )

    row = {}
    scales = {"automatic": DiscreteCorrect(), "published": DiscreteCorrect("published")}
    for name, corrector in scales.items():
        found = cloud(*case.all_terms, corrector)
        law = Q1.histogram(found.latents[0], found.weights[0])
        row[name] = float((law - exact).abs().sum() / 2)
        row[f"z_{name}"] = float(found.log_z.exp()[0] / mass)
    even = torch.full((particles,), 1 / particles)
    bare = Q1.histogram(cloud(*case.terms).latents[0], even)
    row["unweighted"] = float((bare - exact).abs().sum() / 2)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(exact, particles, True, generator=generator)
    floor = torch.bincount(draws, minlength=len(exact)) / particles
    row["floor"] = float((floor - exact).abs().sum() / 2)
    return row

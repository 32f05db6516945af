"""Discrete correctors against enumeration: three letters, length four, exact denoisers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff import Anneal, DiscreteCorrect, MaskedPath, Product, Resample, Tilt, as_reward
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import one_thread
from fkdiff.bench.tables import by_field, means, standard_error
from fkdiff.bench.token_laws import TokenLaw
from fkdiff.tokens import sample_tokens

__all__ = ["CASES", "Q1", "Q2", "run"]

Q1, Q2 = TokenLaw(1), TokenLaw(2)
REWARD = 1.2 * torch.randn(81, generator=torch.Generator().manual_seed(3)).double()


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    powers: tuple[float, float]  # exponents of the two laws in the target
    terms: tuple[Any, ...] = ()  # that make this pool of the first law and of guidance
    guidance: float = 1.0  # Q1 is the unconditional law and Q2 the conditional one
    tilted: bool = False  # by a reward

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
CASES: Mapping[str, Case] = {
    "anneal_2": Case((2.0, 0.0), (Anneal(2.0),)),
    "anneal_0.5": Case((0.5, 0.0), (Anneal(0.5),)),
    "cfg_1.5": Case((-0.5, 1.5), guidance=1.5),
    "product": Case((1.0, 1.0), (_TIMES_Q2,)),
    "tilt": Case((1.0, 0.0), tilted=True),
    "anneal_2_tilt": Case((2.0, 0.0), (Anneal(2.0),), tilted=True),
}


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Total variation from the enumerated law, case by case; arguments as for `run_bench`.

    Returns:
        `tv.CASE.{automatic,published,unweighted,floor}` with standard errors under `tv_se`, the
        ratio of automatic to floor under `ratio`, and `z_ratio` (mean of exp(log Z) over its
        exact value) for both rate scales. The floor is that of as many independent draws.
    """
    seeds, particles, steps = (2, 1000, 40) if quick else (10, 4000, 40)
    settings = {"seed": seed, "seeds": seeds, "particles": particles, "steps": steps}
    kept, table = Kept(resume, settings), {}
    for name in tqdm(CASES, desc="discrete_correctors", mininterval=5):
        rows = [
            kept.part(f"{name}/{s}", partial(_measure, CASES[name], particles, steps, s))
            for s in range(seed, seed + seeds)
        ]
        mean, kinds = means(rows, rows[0]), ("automatic", "published", "unweighted", "floor")
        table[name] = {
            "tv": {kind: mean[kind] for kind in kinds},
            "tv_se": {kind: standard_error([row[kind] for row in rows]) for kind in kinds},
            "ratio": mean["automatic"] / mean["floor"],
            "z_ratio": {kind: mean[f"z_{kind}"] for kind in ("automatic", "published")},
        }
    return {**by_field(table), "settings": settings}


def _measure(case: Case, particles: int, steps: int, seed: int) -> dict[str, float]:
    mass = case.target.sum()
    exact = case.target / mass
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(exact, particles, True, generator=generator)

    def cloud(*terms: Any) -> Any:
        return sample_tokens(
            case.denoisers,
            MaskedPath(steps, mask=Q1.letters),
            *terms,
            template=torch.full((1, Q1.length), -1),
            guidance=case.guidance,
            particles=particles,
            resample=Resample(window=(0.0, 1.0)),
            seed=seed,
        )

    automatic = cloud(*case.all_terms, DiscreteCorrect())
    published = cloud(*case.all_terms, DiscreteCorrect("published"))
    even = torch.full((particles,), 1 / particles)
    laws = {
        "automatic": Q1.histogram(automatic.latents[0], automatic.weights[0]),
        "published": Q1.histogram(published.latents[0], published.weights[0]),
        "unweighted": Q1.histogram(cloud(*case.terms).latents[0], even),
        "floor": torch.bincount(draws, minlength=len(exact)) / particles,
    }
    return {
        **{kind: float((law - exact).abs().sum() / 2) for kind, law in laws.items()},
        "z_automatic": float(automatic.log_z.exp()[0] / mass),
        "z_published": float(published.log_z.exp()[0] / mass),
    }

"""Designed peptides under an independent judge, five methods at equal network evaluations.

Every design may spend `PARTICLES` runs of the flow: `plain` and `stg` take one run of as many
times the steps, `bon` keeps the best of as many runs by the reward, `fk` and `stg_fk` run a cloud
of as many particles and draw one by its weight. The reward is `amp - 1.25 hemolytic` of the
bundled guides; macrel judges, and no method sees it. Weight and strength of guidance were chosen
by the judge's verdicts on designs of other seeds.
"""

from pathlib import Path
from typing import Any

import torch

from fkdiff import zoo
from fkdiff.bench.kept import Kept
from fkdiff.bench.macrel_judge import macrel
from fkdiff.bench.one_thread import one_thread
from fkdiff.sequences.designs import diversity, nearest
from fkdiff.sequences.fasta import read_fasta
from fkdiff.sequences.guidance import StraightThrough
from fkdiff.sequences.guides import load_guides
from fkdiff.sequences.pipeline import GumbelFlowPipeline
from fkdiff.smc import Resample
from fkdiff.terms.fk_steering import Tilt

__all__ = ["METHODS", "run"]

METHODS = ("plain", "bon", "stg", "fk", "stg_fk")
LENGTH = 20
PARTICLES = 4
SCALE = 5.0
GUIDANCE = 8.0
HEMOLYSIS = 1.25


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Design with each method and judge.

    Arguments:
        quick: 24 designs in place of 500, 10 steps in place of 24.
        seed: Seed of all methods.
        resume: File of finished parts to go on from and to add to.

    Returns:
        By method: `amp` and `hemolysis` (shares above .5), `joint` (AMP > .5 and hemolysis < .5),
        `diversity` (mean edit distance of pairs), `novelty` (share not in the training set),
        `nearest` (mean edit distance to the training set), `evaluations` of the network.

    Raises:
        ModuleNotFoundError: If macrel isn't installed.
    """
    n, steps = (24, 10) if quick else (500, 24)
    settings = {
        "seed": seed, "n": n, "steps": steps, "length": LENGTH, "particles": PARTICLES,
        "scale": SCALE, "guidance": GUIDANCE, "hemolysis": HEMOLYSIS,
        "model": zoo.digest("peptides"),
    }  # fmt: skip
    macrel(["GIGKFLHSAKKFGKAFVGEIMNS"])  # missing packages are told before the work
    folder = zoo.path("peptides")
    pipe = GumbelFlowPipeline.from_pretrained(folder, dtype=torch.float32)
    known = [r.sequence for r in read_fasta(folder / "training.fasta", pipe.alphabet)]
    kept = Kept(resume, settings)
    results: dict[str, Any] = {}
    for method in METHODS:
        drawn = kept.part(method, lambda method=method: _drawn(pipe, method, n, steps, seed))
        for field, value in _judged(drawn["sequences"], known).items():
            results.setdefault(field, {})[method] = value
        results.setdefault("evaluations", {})[method] = drawn["evaluations"]
        results.setdefault("guide calls", {})[method] = drawn["guide calls"]
    return {**results, "settings": settings}


def _terms(method: str) -> list[Any]:
    guides = load_guides(zoo.path("peptides"))
    reward = guides["amp"] - HEMOLYSIS * guides["hemolytic"]
    found: list[Any] = []
    if method.startswith("stg"):
        found.append(StraightThrough(reward, GUIDANCE, draws=4, reweight=method == "stg_fk"))
    if method in ("bon", "fk", "stg_fk"):
        potential = "none" if method == "bon" else "difference"
        found.append(Tilt(reward, SCALE, potential))
    return found


def _drawn(pipe: GumbelFlowPipeline, method: str, n: int, steps: int, seed: int) -> dict[str, Any]:
    one = method in ("plain", "stg")
    pipe.set_progress_bar_config(desc=method)
    steered: Any = pipe(
        n,
        LENGTH,
        num_inference_steps=steps * PARTICLES if one else steps,
        generator=torch.Generator().manual_seed(seed),
        terms=_terms(method),
        particles=1 if one else PARTICLES,
        resample=None if method in ("plain", "bon", "stg") else Resample(window=(0.1, 1.0)),
        select="best" if method == "bon" else "sample",
    )
    result = steered.steering
    rows = zip(result.latents.argmax(-1), result.selected[:, 0].tolist(), strict=True)
    calls = result.cost.reward_calls
    return {
        "sequences": [pipe.alphabet.decode(cloud[slot]) for cloud, slot in rows],
        "evaluations": result.cost.denoiser_evaluations,
        "guide calls": sum(calls.values()),
    }


def _judged(sequences: list[str], known: list[str]) -> dict[str, float]:
    amp, hemolysis = macrel(sequences)
    kept = set(known)
    return {
        "amp": round(float((amp > 0.5).mean()), 4),
        "hemolysis": round(float((hemolysis > 0.5).mean()), 4),
        "joint": round(float(((amp > 0.5) & (hemolysis < 0.5)).mean()), 4),
        "diversity": round(diversity(sequences), 4),
        "novelty": round(sum(s not in kept for s in sequences) / len(sequences), 4),
        "nearest": round(float(nearest(sequences, known).mean()), 4),
    }

"""Designed peptides under an independent judge, five methods at equal network evaluations.

Every design may spend `PARTICLES` runs of the flow: `plain` and `stg` take one run of as many
times the steps, `bon` keeps the best of as many runs by the reward, `fk` and `stg_fk` run a cloud
of as many particles and draw one by its weight. The reward is `amp - 1.25 hemolytic` of the
bundled guides; macrel judges, and no method sees it. Weight and strength of guidance were chosen
by the judge's verdicts on designs of other seeds.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from fkdiff import GumbelFlowPipeline, Resample, StraightThrough, Tilt, zoo
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import one_thread
from fkdiff.bench.macrel_judge import macrel
from fkdiff.bench.tables import by_field
from fkdiff.sequences.designs import diversity, nearest
from fkdiff.sequences.fasta import read_fasta
from fkdiff.sequences.guides import load_guides

__all__ = ["METHODS", "run"]

METHODS = ("plain", "bon", "stg", "fk", "stg_fk")
LENGTH, PARTICLES = 20, 4
SCALE = 5.0
GUIDANCE = 8.0
HEMOLYSIS = 1.25


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Design with each method and judge; arguments as for `run_bench`.

    Returns:
        By method: `amp` and `hemolysis` (shares above .5), `joint` (AMP > .5 and hemolysis < .5),
        `diversity` (mean edit distance of pairs), `novelty` (share not in the training set),
        `nearest` (mean edit distance to the training set), `evaluations` of the network.
    """
    n, steps = (24, 10) if quick else (500, 24)
    settings = {"seed": seed, "n": n, "steps": steps, "length": LENGTH, "particles": PARTICLES}
    settings |= {"scale": SCALE, "guidance": GUIDANCE, "hemolysis": HEMOLYSIS}
    settings |= {"model": zoo.digest("peptides")}
    macrel(["GIGKFLHSAKKFGKAFVGEIMNS"])  # a missing package is reported before the work
    folder = zoo.path("peptides")
    pipe = GumbelFlowPipeline.from_pretrained(folder, dtype=torch.float32)
    training = [r.sequence for r in read_fasta(folder / "training.fasta", pipe.alphabet)]
    kept = Kept(resume, settings)
    table = {}
    for method in METHODS:
        drawn = kept.part(method, partial(_drawn, pipe, method, n, steps, seed))
        counts = {name: drawn[name] for name in ("evaluations", "guide calls")}
        table[method] = _judged(drawn["sequences"], training) | counts
    return {**by_field(table), "settings": settings}


def _terms(method: str) -> list[Any]:
    guides = load_guides(zoo.path("peptides"))
    reward = guides["amp"] - HEMOLYSIS * guides["hemolytic"]
    guided = StraightThrough(reward, GUIDANCE, draws=4, reweight=method == "stg_fk")
    return {
        "plain": [],
        "bon": [Tilt(reward, SCALE, "none")],
        "stg": [guided],
        "fk": [Tilt(reward, SCALE)],
        "stg_fk": [guided, Tilt(reward, SCALE)],
    }[method]


def _drawn(pipe: GumbelFlowPipeline, method: str, n: int, steps: int, seed: int) -> dict[str, Any]:
    particles = 1 if method in ("plain", "stg") else PARTICLES
    pipe.set_progress_bar_config(desc=method)
    steered: Any = pipe(
        n,
        LENGTH,
        num_inference_steps=steps * PARTICLES // particles,
        generator=torch.Generator().manual_seed(seed),
        terms=_terms(method),
        particles=particles,
        resample=Resample(window=(0.1, 1.0)) if method in ("fk", "stg_fk") else None,
        select="best" if method == "bon" else "sample",
    )
    result = steered.steering
    rows = zip(result.latents.argmax(-1), result.selected[:, 0].tolist(), strict=True)
    return {
        "sequences": [pipe.alphabet.decode(cloud[slot]) for cloud, slot in rows],
        "evaluations": result.cost.denoiser_evaluations,
        "guide calls": sum(result.cost.reward_calls.values()),
    }


def _judged(sequences: list[str], training: list[str]) -> dict[str, float]:
    amp, hemolysis = macrel(sequences)
    known = set(training)
    values = {
        "amp": (amp > 0.5).mean(),
        "hemolysis": (hemolysis > 0.5).mean(),
        "joint": ((amp > 0.5) & (hemolysis < 0.5)).mean(),
        "diversity": diversity(sequences),
        "novelty": sum(s not in known for s in sequences) / len(sequences),
        "nearest": nearest(sequences, training).mean(),
    }
    return {name: round(float(value), 4) for name, value in values.items()}

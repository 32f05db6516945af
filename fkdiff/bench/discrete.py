"""Rare-attribute control of the antibody model, as the FK paper controls toxicity of text.

The antibody model draws N-terminal fragments of `LENGTH` residues. The attribute is fixed by a
rule from the plain samples alone: a net charge at pH 7 of at least the smallest whole number that
fewer than `BASE` of them reach. The reward is softer: the charge itself, per standard deviation of
the first `BATCH` plain samples. A rate is that of the one sample that a run returns; `bon8`
returns the best of eight plain samples, fkK_xM runs K particles with M draws of the clean tokens
behind each intermediate reward. Scale and steps were chosen on other seeds. The pseudo-log-
likelihood tells whether the fragments are still antibodies.
"""

import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fkdiff.bench import BenchRefused
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import one_thread
from fkdiff.bench.tables import by_field, share
from fkdiff.rewards.language_model import Pseudo
from fkdiff.rewards.protein import ProteinProperty
from fkdiff.smc import Resample
from fkdiff.terms.fk_steering import Tilt
from fkdiff.tokens.antibody import antibody_pipeline

__all__ = ["ARMS", "run", "threshold"]

ARMS = {"fk4_x1": (4, 1), "fk8_x1": (8, 1), "fk8_x4": (8, 4), "fk8_x16": (8, 16)}
LENGTH = 24
STEPS = 12
SCALE = 10.0
BASE = 0.005
BATCH = 250
PART = 20


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Rates of the attribute in plain and steered fragments; arguments as for `run_bench`.

    Quick: 80 plain samples in place of 5000, 5 runs an arm in place of 240.

    Returns:
        `rate.*` and its standard error `rate_se.*`, mean `charge.*`, `pll.*` of plain samples and
        of each arm, the network's `evaluations.*` a run, and what the attribute is.

    Raises:
        BenchRefused: If the antibody model isn't installed.
    """
    plain, runs, scored = (80, 5, 20) if quick else (5000, 240, 200)
    settings = {"seed": seed, "length": LENGTH, "steps": STEPS, "scale": SCALE, "plain": plain}
    try:
        pipe = antibody_pipeline()
    except ModuleNotFoundError as error:
        raise BenchRefused(str(error)) from None
    pipe.set_progress_bar_config(disable=True)
    kept = Kept(resume, settings)
    texts = _plain(pipe, kept, plain, seed)
    charges = ProteinProperty("charge")(texts)
    mean, sd = float(charges.mean()), float(charges.std())
    least = threshold(charges)
    best = charges[: plain // 8 * 8].reshape(-1, 8).argmax(1).tolist()
    returned = {"plain": texts, "bon8": [texts[8 * i + k] for i, k in enumerate(best)]}
    evaluations = {"plain": STEPS - 1.0, "bon8": 8 * (STEPS - 1.0)}
    for arm in ARMS:
        tilt = Tilt(_calibrated(charges[:BATCH]), SCALE, draws=ARMS[arm][1])
        returned[arm], evaluations[arm] = _steered(pipe, kept, arm, tilt, runs, seed)
    judge, table = Pseudo(pipe.model, pipe.tokenizer, 6, 64), {}
    for name, found in returned.items():
        values = ProteinProperty("charge")(found)
        rate = share((values >= least).tolist())
        some = found[:scored]
        table[name] = {
            "rate": rate["mean"],
            "rate_se": rate["se"],
            "charge": float(values.mean()),
            "pll": kept.part(f"pll/{name}/{len(some)}", partial(_mean_score, judge, some)),
            "distinct": len(set(found)) / len(found),
            "evaluations": evaluations[name],
            "runs": len(found),
        }
    attribute = f"net charge at pH 7 >= {least} (plain: mean {mean:.2f}, sd {sd:.2f})"
    return {**by_field(table), "attribute": attribute, "settings": settings}


def threshold(charges: torch.Tensor) -> int:
    """Smallest whole number that fewer than `BASE` of the charges reach, but some do.

    >>> threshold(torch.tensor([0.0] * 500 + [5.5]))
    1
    """
    least = math.floor(float(charges.min()))
    while float((charges >= least).double().mean()) >= BASE:
        least += 1
    return least


def _calibrated(charges: torch.Tensor) -> ProteinProperty:
    return ProteinProperty("charge", float(charges.mean()), float(charges.std()))


def _plain(pipe: Any, kept: Kept, count: int, seed: int) -> list[str]:
    """Independent fragments; equal steps and order as the steered runs."""
    size = min(count, BATCH)

    def drawn(part: int) -> list[str]:
        generator = torch.Generator().manual_seed(seed * 100003 + part)
        return pipe(size, LENGTH, num_inference_steps=STEPS, generator=generator).sequences

    bar = tqdm(range(count // size), desc="plain", mininterval=5)
    parts = [kept.part(f"plain/{part}", partial(drawn, part)) for part in bar]
    return [text for part in parts for text in part]


def _steered(
    pipe: Any, kept: Kept, arm: str, tilt: Tilt, runs: int, seed: int
) -> tuple[list[str], float]:
    """The fragments of an arm, and the evaluations of a run."""
    size = min(runs, PART)

    def drawn(part: int) -> dict[str, Any]:
        out = pipe(
            size,
            LENGTH,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(seed * 100003 + 50000 + part),
            terms=[tilt],
            particles=ARMS[arm][0],
            resample=Resample(window=(0.0, 1.0)),
        )
        spent = out.steering.cost.denoiser_evaluations / size
        return {"texts": out.sequences, "evaluations": spent}

    bar = tqdm(range(runs // size), desc=arm, mininterval=5)
    parts = [kept.part(f"{arm}/{part}", partial(drawn, part)) for part in bar]
    texts = [text for part in parts for text in part["texts"]]
    return texts, statistics.mean(part["evaluations"] for part in parts)


@torch.no_grad()
def _mean_score(judge: Pseudo, texts: list[str]) -> float:
    return float(judge(texts).mean())

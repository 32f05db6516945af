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

from fkdiff import Resample, Tilt
from fkdiff.bench import BenchRefused
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import one_thread
from fkdiff.bench.tables import by_field, share
from fkdiff.rewards.language_model import Pseudo
from fkdiff.rewards.protein import ProteinProperty
from fkdiff.tokens.antibody import antibody_pipeline

__all__ = ["ARMS", "run", "threshold"]

ARMS = {"fk4_x1": (4, 1), "fk8_x1": (8, 1), "fk8_x4": (8, 4), "fk8_x16": (8, 16)}
LENGTH, STEPS = 24, 12
SCALE = 10.0
BASE = 0.005
BATCH, PART = 250, 20


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Rates of the attribute in plain and steered fragments; arguments as for `run_bench`.

    Returns:
        `rate.*` and its standard error `rate_se.*`, mean `charge.*`, `pll.*` of plain samples and
        of each arm, the network's `evaluations.*` a run, and what the attribute is.
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
    found = {
        "plain": (texts, STEPS - 1.0),
        "bon8": ([texts[8 * i + k] for i, k in enumerate(best)], 8 * (STEPS - 1.0)),
    }
    first = charges[:BATCH]
    reward = ProteinProperty("charge", float(first.mean()), float(first.std()))
    found |= {arm: _steered(pipe, kept, arm, reward, runs, seed) for arm in ARMS}
    judge, table = Pseudo(pipe.model, pipe.tokenizer, 6, 64), {}
    for name, (texts, evaluations) in found.items():
        values = ProteinProperty("charge")(texts)
        rate = share((values >= least).tolist())
        some = texts[:scored]
        table[name] = {
            "rate": rate["mean"],
            "rate_se": rate["se"],
            "charge": float(values.mean()),
            "pll": kept.part(f"pll/{name}/{len(some)}", partial(_mean_score, judge, some)),
            "distinct": len(set(texts)) / len(texts),
            "evaluations": evaluations,
            "runs": len(texts),
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


def _plain(pipe: Any, kept: Kept, count: int, seed: int) -> list[str]:
    """Independent fragments; equal steps and order as the steered runs."""
    size = min(count, BATCH)

    def drawn(part: int) -> list[str]:
        return _call(pipe, size, seed * 100003 + part).sequences

    bar = tqdm(range(count // size), desc="plain", mininterval=5)
    parts = [kept.part(f"plain/{part}", partial(drawn, part)) for part in bar]
    return [text for part in parts for text in part]


def _steered(
    pipe: Any, kept: Kept, arm: str, reward: Any, runs: int, seed: int
) -> tuple[list[str], float]:
    """The fragments of an arm, and the evaluations of a run."""
    particles, draws = ARMS[arm]
    size = min(runs, PART)

    def drawn(part: int) -> dict[str, Any]:
        tilt, resample = Tilt(reward, SCALE, draws=draws), Resample(window=(0.0, 1.0))
        cloud = {"terms": [tilt], "particles": particles, "resample": resample}
        out = _call(pipe, size, seed * 100003 + 50000 + part, **cloud)
        spent = out.steering.cost.denoiser_evaluations / size
        return {"texts": out.sequences, "evaluations": spent}

    bar = tqdm(range(runs // size), desc=arm, mininterval=5)
    parts = [kept.part(f"{arm}/{part}", partial(drawn, part)) for part in bar]
    texts = [text for part in parts for text in part["texts"]]
    return texts, statistics.mean(part["evaluations"] for part in parts)


def _call(pipe: Any, size: int, seed: int, **cloud: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return pipe(size, LENGTH, num_inference_steps=STEPS, generator=generator, **cloud)


@torch.no_grad()
def _mean_score(judge: Pseudo, texts: list[str]) -> float:
    return float(judge(texts).mean())

"""Cut-outs of the bundled model: cropped subjects, the judge on new backgrounds, time, memory."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff.bench.emoji_arms import emoji, judge, models, share
from fkdiff.bench.kept import Kept
from fkdiff.bench.memory import peak, reset_peak
from fkdiff.processes.streams import slot_generators
from fkdiff.rgba import Cutout, over
from fkdiff.steering import steer
from fkdiff.zoo.judge import Judge
from fkdiff.zoo.words import BACKGROUNDS, OBJECTS, with_article

__all__ = ["run", "touches"]

COUNT, STEPS = 200, 30
QUICK = (8, 8)  # pictures and steps
TOGETHER = 8
"""Prompts of one call."""
SIZE = 64


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Plain pictures and cut-outs of the same single objects, on white.

    Arguments:
        quick: 8 prompts of 8 steps instead of 200 of 30.
        seed: Of the first picture.
        resume: File of finished calls to go on from and to add to.

    Returns:
        `cropped.{plain,alfie}` (share of subjects whose alpha reaches the frame),
        `judge.{plain,composite}` (pass rates: pictures as drawn; cut-outs over random backgrounds
        that the caption names), `time_ratio` (seconds over those of the stock call), and
        `memory_ratio` (peak above load, 8 pictures: cut-outs in micro-batches of 4 over stock).

    Raises:
        FileNotFoundError: If the judge's weights are missing.
        BenchRefused: If the file holds calls of other settings.
    """
    count, steps = QUICK if quick else (COUNT, STEPS)
    eyes, pipe = judge(), emoji()
    kept = Kept(resume, {"seed": seed, "prompts": count, "steps": steps, **models()})
    names = [list(OBJECTS)[i % len(OBJECTS)] for i in range(count)]
    rows, spent = [], {"plain": 0.0, "alfie": 0.0}
    for start in tqdm(range(0, count, TOGETHER), desc="cut-outs", mininterval=5):
        part = names[start : start + TOGETHER]
        make = partial(_call, pipe, eyes, part, steps, seed + start)
        done = kept.part(f"call {start}", make)
        rows += done["rows"]
        for arm in spent:
            spent[arm] += done["seconds"][arm]
    memory = kept.part("memory", lambda: _memory(min(steps, 4), seed))
    return {
        "cropped": {arm: share([row[f"{arm} cropped"] for row in rows]) for arm in spent},
        "judge": {field: share([row[field] for row in rows]) for field in ("plain", "composite")},
        "time_ratio": spent["alfie"] / spent["plain"],
        "memory_ratio": memory["alfie"] / memory["plain"],
        "megabytes": memory,
        "prompts": count,
        "steps": steps,
    }


def touches(cutouts: Tensor) -> list[bool]:
    """Whether the subject of each (n, 4, h, w) reaches the frame: alpha of at least a half."""
    inside = cutouts[:, 3, 1:-1, 1:-1] >= 0.5
    everywhere = cutouts[:, 3] >= 0.5
    return [bool(a.sum() > b.sum()) for a, b in zip(everywhere, inside, strict=True)]


def _call(pipe: Any, eyes: Judge, names: Sequence[str], steps: int, seed: int) -> dict[str, Any]:
    prompts = [f"{with_article(name)} on a white background" for name in names]
    call = {"num_inference_steps": steps, "output_type": "pt", "guidance_scale": 2.0}
    call |= {"height": SIZE, "width": SIZE}
    seconds, start = {}, time.perf_counter()
    pipe(prompts, generator=slot_generators(seed, len(prompts), 1), **call)
    seconds["plain"] = time.perf_counter() - start
    drawn = {}
    for arm, mask in (("alfie", Cutout().mask), ("plain", None)):
        start = time.perf_counter()
        steered = steer(pipe, Cutout(mask=mask), particles=1, seed=seed)
        drawn[arm] = torch.as_tensor(steered(prompts, **call).images).float()
        seconds.setdefault(arm, time.perf_counter() - start)
    white = torch.ones(3, 1, 1)
    told, grounds = _grounds(names, seed)
    checks = {
        "plain cropped": touches(drawn["plain"]),
        "alfie cropped": touches(drawn["alfie"]),
        "plain": eyes.passes(over(drawn["plain"], white), prompts),
        "composite": eyes.passes(over(drawn["alfie"], grounds), told),
    }
    rows = [{name: values[i] for name, values in checks.items()} for i in range(len(names))]
    return {"rows": rows, "seconds": seconds}


def _grounds(names: Sequence[str], seed: int) -> tuple[list[str], Tensor]:
    """Captions with random backgrounds, and these, (n, 3, h, w)."""
    rng = np.random.default_rng([seed, 3])
    drawn = [str(rng.choice(list(BACKGROUNDS))) for _ in names]
    told = [
        f"{with_article(name)} on {with_article(ground)} background"
        for name, ground in zip(names, drawn, strict=True)
    ]
    colours = torch.tensor([BACKGROUNDS[ground] for ground in drawn]) / 255
    return told, colours[:, :, None, None].expand(-1, -1, SIZE, SIZE).float()


def _memory(steps: int, seed: int) -> dict[str, float]:
    found = {}
    for arm in ("plain", "alfie"):
        arguments = json.dumps([arm, steps, seed])
        command = [sys.executable, "-m", "fkdiff.bench.rgba", arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[arm] = float(done.stdout.splitlines()[-1])
    return found


def _child(arm: str, steps: int, seed: int) -> float:
    pipe = emoji()
    cut = arm == "alfie"

    def sample(pictures: int) -> None:
        terms = (Cutout(),) if cut else ()
        batch = 4 if cut else None
        steered = steer(
            pipe, *terms, particles=pictures, micro_batch=batch, select="all", seed=seed
        )
        steered("a cat on a white background", num_inference_steps=steps)

    sample(1)  # imports and buffers of the first call belong to loading
    before = reset_peak()
    sample(8)
    return peak() - before


if __name__ == "__main__":
    print(_child(*json.loads(sys.argv[1])))

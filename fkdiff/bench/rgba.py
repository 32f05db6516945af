"""Cut-outs of the bundled model: cropped subjects, the judge on new backgrounds, time, memory."""

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff import Cutout, steer
from fkdiff.bench.emoji_arms import emoji, judge, models
from fkdiff.bench.kept import Kept
from fkdiff.bench.memory import growth, in_process
from fkdiff.bench.tables import share
from fkdiff.processes.streams import slot_generators
from fkdiff.rgba import over
from fkdiff.zoo.judge import Judge
from fkdiff.zoo.words import BACKGROUNDS, OBJECTS, with_article

__all__ = ["run", "touches"]

ARMS = ("plain", "alfie")
QUICK = (8, 8)  # pictures and steps
TOGETHER = 8  # prompts of one call
SIZE = 64


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Plain pictures and cut-outs of the same single objects, on white; see `run_bench`.

    Returns:
        `cropped.{plain,alfie}` (share of subjects whose alpha reaches the frame),
        `judge.{plain,composite}` (pass rates: pictures as drawn; cut-outs over random backgrounds
        that the caption names), `time_ratio` (seconds over those of the stock call), and
        `memory_ratio` (peak above load, 8 pictures: cut-outs in micro-batches of 4 over stock).
    """
    count, steps = QUICK if quick else (200, 30)
    eyes, pipe = judge(), emoji()
    kept = Kept(resume, {"seed": seed, "prompts": count, "steps": steps, **models()})
    names = list(islice(cycle(OBJECTS), count))
    calls = []
    for start in tqdm(range(0, count, TOGETHER), desc="cut-outs", mininterval=5):
        make = partial(_call, pipe, eyes, names[start : start + TOGETHER], steps, seed + start)
        calls.append(kept.part(f"call {start}", make))
    rows = [row for call in calls for row in call["rows"]]
    shares = {check: share([row[check] for row in rows]) for check in rows[0]}
    seconds = {arm: sum(call["seconds"][arm] for call in calls) for arm in ARMS}
    memory = kept.part("memory", lambda: _memory(min(steps, 4), seed))
    return {
        "cropped": {arm: shares[f"{arm} cropped"] for arm in ARMS},
        "judge": {field: shares[field] for field in ("plain", "composite")},
        "time_ratio": seconds["alfie"] / seconds["plain"],
        "memory_ratio": memory["alfie"] / memory["plain"],
        "megabytes": memory,
        "prompts": count,
        "steps": steps,
    }


def touches(cutouts: Tensor) -> list[bool]:
    """Whether the subject of each (n, 4, h, w) reaches the frame: alpha of at least a half."""
    subject = cutouts[:, 3] >= 0.5
    return [bool(alpha.sum() > alpha[1:-1, 1:-1].sum()) for alpha in subject]


def _call(pipe: Any, eyes: Judge, names: Sequence[str], steps: int, seed: int) -> dict[str, Any]:
    prompts = [f"{with_article(name)} on a white background" for name in names]
    call: dict[str, Any] = {"num_inference_steps": steps, "output_type": "pt"}
    call |= {"guidance_scale": 2.0, "height": SIZE, "width": SIZE}
    seconds, drawn, start = {}, {}, time.perf_counter()
    pipe(prompts, generator=slot_generators(seed, len(prompts), 1), **call)
    seconds["plain"] = time.perf_counter() - start
    for arm, mask in (("alfie", Cutout().mask), ("plain", None)):
        start = time.perf_counter()
        steered = steer(pipe, Cutout(mask=mask), particles=1, seed=seed)
        drawn[arm] = torch.as_tensor(steered(prompts, **call).images).float()
        seconds.setdefault(arm, time.perf_counter() - start)
    captions, grounds = _grounds(names, seed)
    checks = {
        "plain cropped": touches(drawn["plain"]),
        "alfie cropped": touches(drawn["alfie"]),
        "plain": eyes.passes(over(drawn["plain"], torch.ones(3, 1, 1)), prompts),
        "composite": eyes.passes(over(drawn["alfie"], grounds), captions),
    }
    rows = [{name: values[i] for name, values in checks.items()} for i in range(len(names))]
    return {"rows": rows, "seconds": seconds}


def _grounds(names: Sequence[str], seed: int) -> tuple[list[str], Tensor]:
    """Captions with random backgrounds, and these, (n, 3, h, w)."""
    rng = np.random.default_rng([seed, 3])
    drawn = [str(rng.choice(list(BACKGROUNDS))) for _ in names]
    captions = [
        f"{with_article(name)} on {with_article(ground)} background"
        for name, ground in zip(names, drawn, strict=True)
    ]
    colours = torch.tensor([BACKGROUNDS[ground] for ground in drawn]) / 255
    return captions, colours[:, :, None, None].expand(-1, -1, SIZE, SIZE).float()


def _memory(steps: int, seed: int) -> dict[str, float]:
    return {arm: in_process(__name__, (arm, steps, seed)) for arm in ARMS}


def _child(arm: str, steps: int, seed: int) -> float:
    pipe = emoji()
    terms, micro_batch = ((Cutout(),), 4) if arm == "alfie" else ((), None)

    def draw(pictures: int) -> None:
        options = {"micro_batch": micro_batch, "select": "all", "seed": seed}
        steered = steer(pipe, *terms, particles=pictures, **options)
        steered("a cat on a white background", num_inference_steps=steps)

    return growth(draw, 8)


if __name__ == "__main__":
    print(_child(*json.loads(sys.argv[1])))

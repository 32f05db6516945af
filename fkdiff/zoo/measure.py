"""Measures the exported models: which guidance is best, how often prompts are met, calibration."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from fkdiff.zoo import path, prompts
from fkdiff.zoo.dual_encoder import retrieval
from fkdiff.zoo.judge import Judge, load_judge
from fkdiff.zoo.negatives import wrong_captions
from fkdiff.zoo.parse import parse
from fkdiff.zoo.scenes import Sprite

__all__ = [
    "GUIDANCES",
    "PLACEHOLDERS",
    "Sampled",
    "captions_told_apart",
    "few_steps",
    "load_scorer",
    "measure",
    "passed",
    "quality",
    "sample_prompts",
]

GUIDANCES = (2.0, 3.0, 5.0, 7.0)
_CALL = {"num_inference_steps": 30, "height": 64, "width": 64}

# What a card says before anything is measured, so that an early export loads and runs.
PLACEHOLDERS: dict[str, dict[str, Any]] = {
    "emoji": {"defaults": _CALL | {"guidance_scale": 3.0}, "quality": {}},
    "clip": {"defaults": {}, "quality": {}, "calibration": {"mean": 0.5, "sd": 0.2}},
}

_WRONG_IN = {
    "sides": "/side",
    "numbers": "/count",
    "colours": ("/colour", "/binding"),
    "objects": "/object",
}

Scorer = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures (n, 3, 64, 64) in [0, 1], m texts) -> cosines (n, m)."""


@dataclass(frozen=True)
class Sampled:
    """Plain samples: pictures (n, 3, 64, 64) in [0, 1], and the prompt of each."""

    images: Tensor
    prompts: tuple[str, ...]


def load_scorer(folder: Path) -> tuple[Any, Scorer]:
    """The dual encoder of a folder and its cosine between pictures and texts."""
    name = f"local-dir:{folder}"
    loaded: Any = open_clip.create_model_and_transforms(name)
    model = loaded[0]
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    @torch.inference_mode()
    def score(images: Tensor, texts: Sequence[str]) -> Tensor:
        image = F.normalize(model.encode_image(2 * images - 1), dim=-1)
        text = F.normalize(model.encode_text(tokenizer(list(texts))), dim=-1)
        return image @ text.T

    return model, score


def sample_prompts(
    folder: Path,
    prompts: Sequence[str],
    guidance: float,
    *,
    steps: int = 30,
    batch: int = 10,
    adapter: str | None = None,
) -> Sampled:
    """One plain picture of each prompt, from a generator of its own.

    Arguments:
        folder: A pipeline.
        prompts: What to draw.
        guidance: `guidance_scale`.
        steps: `num_inference_steps`.
        batch: Pictures drawn at once.
        adapter: A bundled LoRA for few steps; the scheduler is then `LCMScheduler`.
    """
    pipe: Any = DiffusionPipeline.from_pretrained(folder)
    if adapter is not None:
        pipe.load_lora_weights(path(adapter), adapter_name=adapter)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for start in tqdm(range(0, len(prompts), batch), desc=f"guidance {guidance:g}", mininterval=5):
        some = list(prompts[start : start + batch])
        seeds = range(start, start + len(some))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        call: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
        out = pipe(some, generator=generators, output_type="pt", height=64, width=64, **call)
        rows.append(out.images)
    return Sampled(torch.cat(rows), tuple(prompts))


def few_steps(prompts_of: str = "tune", each: int = 150) -> dict[str, float]:
    """Shares that pass the judge of `emoji` in 20 steps and of `emoji-lcm` in 4, on one noise.

    Arguments:
        prompts_of: A shipped list of prompts.
        each: How many of them.
    """
    chosen = prompts(prompts_of)[:each]
    judge = load_judge()
    found = {
        name: sample_prompts(path("emoji"), chosen, guidance, steps=steps, adapter=adapter)
        for name, guidance, steps, adapter in (
            ("20 steps", 3.0, 20, None),
            ("4 steps", 3.0, 4, None),
            ("4 steps, emoji-lcm", 1.0, 4, "emoji-lcm"),
        )
    }
    return {name: passed(pictures, judge)["all"] for name, pictures in found.items()}


def quality(sampled: Sampled, score: Scorer, *, seed: int = 0) -> dict[str, Any]:
    """How well pictures meet their prompts.

    Returns:
        "mean" and "sd" of the cosine with the prompt, and "met": by kind and over all, the share
        of pictures that prefer their prompt to every caption wrong in one thing.
    """
    rng = np.random.default_rng(seed)
    cosines: list[float] = []
    met: list[bool] = []
    for image, prompt in zip(sampled.images, sampled.prompts, strict=True):
        scene = parse(prompt)
        texts = [prompt, *wrong_captions(scene, rng).values()]
        values = score(image[None], texts)[0]
        cosines.append(float(values[0]))
        met.append(bool(values[0] > values[1:].max()))
    mean, sd = float(np.mean(cosines)), float(np.std(cosines))
    return {"mean": round(mean, 4), "sd": round(sd, 4), "met": _by_kind(sampled.prompts, met)}


def passed(sampled: Sampled, judge: Judge) -> dict[str, float]:
    """By kind and over all, the share of pictures of which the judge says that they meet all."""
    return _by_kind(sampled.prompts, judge.passes(sampled.images, sampled.prompts))


def captions_told_apart(folder: Path, sprites: Sprite, scenes: int = 200) -> dict[str, float]:
    """Share of fresh renders whose right caption wins over one wrong in a single thing.

    Arguments:
        folder: Of the dual encoder; its own tokenizer and words are used.
        sprites: The art.
        scenes: How many of each kind.

    Returns:
        By what the other caption is wrong about: "sides", "numbers", "colours", "objects".
    """
    model, _ = load_scorer(folder)
    words = json.loads((folder / "card.json").read_text(encoding="utf-8"))["words"]
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    found = retrieval(model, sprites, tokenize=tokenize, known=set(words), scenes=scenes)
    return {
        name: float(np.mean([share for key, share in found.items() if key.endswith(ends)]))
        for name, ends in _WRONG_IN.items()
    }


def _by_kind(prompts: Sequence[str], verdicts: Sequence[bool]) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        for kind in (parse(prompt).kind, "all"):
            hits.setdefault(kind, []).append(verdict)
    return {kind: round(float(np.mean(values)), 3) for kind, values in hits.items()}


def measure(emoji: Path, clip: Path, sprites: Sprite, n: int = 150) -> dict[str, dict[str, Any]]:
    """What the cards of both models say of their quality.

    Arguments:
        emoji: Folder of the pipeline.
        clip: Folder of the dual encoder.
        sprites: The art, for scenes that the dual encoder is tested on.
        n: How many of the tune prompts, spread over the list.
    """
    model, score = load_scorer(clip)
    lines = prompts("tune")
    chosen = [lines[i] for i in np.linspace(0, len(lines) - 1, min(n, len(lines))).astype(int)]
    judge = load_judge()
    drawn = {g: sample_prompts(emoji, chosen, g) for g in GUIDANCES}
    found = {
        g: quality(pictures, score) | {"passed by emoji-judge": passed(pictures, judge)}
        for g, pictures in drawn.items()
    }
    # Of equally good ones the strongest.
    best = max(reversed(found), key=lambda g: found[g]["passed by emoji-judge"]["all"])
    tokenize = open_clip.get_tokenizer(f"local-dir:{clip}")
    splits = {
        split: retrieval(model, sprites, tokenize=tokenize, split=split)
        for split in ("all", "held_out")
    }
    calibration = {"mean": found[best]["mean"], "sd": found[best]["sd"]}
    return {
        "emoji": {
            "defaults": _CALL | {"guidance_scale": best},
            "quality": {f"guidance {g:g}": value for g, value in found.items()},
        },
        "clip": {
            "defaults": {},
            "quality": {f"retrieval, {split}": table for split, table in splits.items()},
            "calibration": calibration,
        },
    }

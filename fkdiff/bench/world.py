"""The bundled models against each other: does a reward know what the judge knows, and how early.

Sixteen plain pictures of each prompt are drawn once and scored by every reward and by the judge;
all that best-of-n would do is then an exact average over subsets of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fkdiff import zoo
from fkdiff.bench import emoji_arms
from fkdiff.bench.emoji_arms import distances, real_pictures
from fkdiff.bench.fk_summary import best_of as chances
from fkdiff.bench.kept import Kept
from fkdiff.bench.tables import by_field, share
from fkdiff.terms import load_reward
from fkdiff.zoo import labels
from fkdiff.zoo.judge import Judge
from fkdiff.zoo.measure import captions_told_apart
from fkdiff.zoo.parse import parse
from fkdiff.zoo.sprites import Sprites, load_art

__all__ = ["best_of", "draw_cloud", "run", "share_kept", "within"]

REWARDS = {"clip": "emoji-clip", "vqa": "emoji-vqa"}
LEVELS = (30, 50, 70)  # shares of the run, per cent, after which estimates are scored
GUIDANCE = 3.0
QUICK = (4, 4, 4)  # prompts, pictures of each, steps
WHOLE = (96, 16, 20)
_GROUPS = {"background": "one", "single": "one", "pair": "pair"}

Scores = NDArray[np.float64]


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """How the rewards of the zoo agree with its judge on what `emoji` draws; see `run_bench`.

    Returns:
        `corr.R.judge`, correlation of reward R with the verdict within prompts; `kept.R.N`, share
        of the judge's own gain that best-of-N by R keeps; `seen.R.P`, R2 within prompts of the
        reward of the denoised estimate at P% of the run with the final reward; `pass_rate`,
        `distance.plain` to real renders, `psnr` of the autoencoder, `clip`, the shares of right
        captions preferred, and `agreement.eyes`.
    """
    count, each, steps = QUICK if quick else WHOLE
    lines = zoo.prompts("eval")
    prompts = [lines[int(i)] for i in np.linspace(0, len(lines) - 1, count).astype(int)]
    eyes, pipe = emoji_arms.judge(), emoji_arms.emoji()
    rewards = {name: load_reward(spec) for name, spec in REWARDS.items()}
    settings = {"prompts": count, "pictures": each, "steps": steps, "guidance": GUIDANCE}
    kept = Kept(resume, {"seed": seed, **settings, **emoji_arms.models(*REWARDS.values())})
    parts = []
    for i, prompt in enumerate(prompts):
        draw = partial(draw_cloud, pipe, count=each, steps=steps, seed=seed + i)
        parts.append(kept.part(prompt, partial(_scored, eyes, rewards, draw, prompt)))
    features = torch.tensor([part["features"] for part in parts])
    drawn = distances(features, eyes.features(real_pictures(prompts, seed)), seed)
    scenes = 4 if quick else 200
    return {
        **agreement(prompts, parts, rewards),
        "distance": {"plain": drawn},
        **kept.part("renders", lambda: _on_renders(pipe, prompts, seed, scenes)),
        "agreement": {"eyes": labels.agreement(eyes, zoo.path("emoji-judge"))["agreement"]},
        **settings,
    }


@torch.inference_mode()
def _scored(
    eyes: Judge, rewards: Mapping[str, Any], draw: Callable[..., dict[int, Tensor]], prompt: str
) -> dict[str, Any]:
    """Verdicts, features of the first picture, and each reward's values by level, of a prompt."""
    drawn = draw(prompt)
    prompts = [prompt] * len(drawn[100])
    values = {
        name: {str(level): reward(x, prompts).tolist() for level, x in drawn.items()}
        for name, reward in rewards.items()
    }
    return {
        "passed": eyes.passes(drawn[100], prompts),
        "features": eyes.features(drawn[100][:1])[0].tolist(),
        "values": values,
    }


@torch.inference_mode()
def draw_cloud(pipe: Any, prompt: str, count: int, steps: int, seed: int) -> dict[int, Tensor]:
    """Plain samples of a prompt by stochastic DDIM (eta 1), and estimates of them on the way.

    Returns:
        Per cent of the run -> pictures (count, 3, 64, 64) in [0, 1]; 100 are the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    text = torch.cat(pipe.encode_prompt(prompt, "cpu", count, True)[1::-1])
    x = torch.randn(count, 4, 16, 16, generator=generator)
    pipe.scheduler.set_timesteps(steps)
    found: dict[int, Tensor] = {}
    for index, t in enumerate(pipe.scheduler.timesteps):
        uncond, cond = pipe.unet(torch.cat([x, x]), t, text).sample.chunk(2)
        velocity = uncond + GUIDANCE * (cond - uncond)
        out = pipe.scheduler.step(velocity, t, x, eta=1.0, generator=generator)
        x = out.prev_sample
        for level in LEVELS:
            if level not in found and 100 * (index + 1) >= level * steps:
                found[level] = _decoded(pipe, out.pred_original_sample)
    return {**found, 100: _decoded(pipe, x)}


def _decoded(pipe: Any, latents: Tensor) -> Tensor:
    pictures = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return (pictures / 2 + 0.5).clamp(0, 1)


def agreement(
    prompts: Sequence[str], parts: Sequence[Mapping[str, Any]], rewards: Sequence[str] | Any
) -> dict[str, Any]:
    """The fields that compare rewards and verdicts: `corr`, `kept`, `seen` and `pass_rate`."""
    verdicts = np.array([part["passed"] for part in parts], float)
    table = {}
    for name in rewards:
        scores = {
            level: np.array([part["values"][name][str(level)] for part in parts])
            for level in (*LEVELS, 100)
        }
        final = scores.pop(100)
        table[name] = {
            "corr": {"judge": _bootstrapped(within, final, verdicts)},
            "kept": {
                str(n): _bootstrapped(partial(share_kept, n=n), final, verdicts)
                for n in (2, 4, 8)
                if n < verdicts.shape[1]
            },
            "seen": {str(level): within(early, final) ** 2 for level, early in scores.items()},
        }
    groups: dict[str, list[bool]] = {}
    for prompt, row in zip(prompts, verdicts, strict=True):
        groups.setdefault(_GROUPS.get(parse(prompt).kind, "hard"), []).extend(row > 0)
    rates = {group: share(hits) for group, hits in groups.items()}
    return {**by_field(table), "pass_rate": rates}


def within(first: Scores, second: Scores) -> float:
    """Correlation of two tables (prompts, pictures) within prompts; NaN where one is constant.

    >>> round(within(np.array([[0.0, 1.0], [5.0, 7.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])), 3)
    0.949
    """
    a, b = (x - x.mean(1, keepdims=True) for x in (first, second))
    spread = math.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / spread) if spread > 0 else math.nan


def best_of(scores: Scores, verdicts: Scores, n: int) -> float:
    """Expected verdict of the best scored of n pictures, over all subsets and all prompts.

    Scores and verdicts, 0 or 1, are (prompts, pictures); of equal scores each is as likely taken.

    >>> best_of(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 1.0]]), 2)
    0.6666666666666666
    """
    found = []
    for row, verdict in zip(scores, verdicts, strict=True):
        _, tie = np.unique(row, return_inverse=True)
        means = np.bincount(tie, verdict) / np.bincount(tie)
        found.append(float(chances(row.tolist(), n) @ means[tie]))
    return float(np.mean(found))


def share_kept(scores: Scores, verdicts: Scores, n: int) -> float:
    """Share of the judge's own gain by best-of-n over plain that another score keeps."""
    plain = verdicts.mean()
    gain = best_of(verdicts, verdicts, n) - plain
    return float((best_of(scores, verdicts, n) - plain) / gain) if gain > 0 else math.nan


def _bootstrapped(
    statistic: Callable[[Scores, Scores], float], first: Scores, second: Scores
) -> dict[str, float]:
    """A statistic of two tables, and its standard error over prompts."""
    rng, values = np.random.default_rng(0), []
    for _ in range(200):
        rows = rng.integers(0, len(first), len(first))
        values.append(statistic(first[rows], second[rows]))
    return {"mean": statistic(first, second), "se": float(np.nanstd(values))}


def _on_renders(pipe: Any, prompts: Sequence[str], seed: int, scenes: int) -> dict[str, Any]:
    """Return the autoencoder's `psnr`, and as `clip` how often the right caption wins."""
    x = 2 * real_pictures(prompts, seed) - 1
    with torch.inference_mode():
        error = (pipe.vae.decode(pipe.vae.encode(x).latents).sample.clamp(-1, 1) - x) / 2
    sprites = Sprites(load_art(emoji_arms.fetched_art()))
    return {
        "psnr": float(-10 * error.square().mean((1, 2, 3)).log10().mean()),
        "clip": captions_told_apart(zoo.path("emoji-clip"), sprites, scenes),
    }

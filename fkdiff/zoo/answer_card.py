"""Calibrates `emoji-vqa` on pictures it never saw, and writes its weights and card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fkdiff.zoo import prompts
from fkdiff.zoo.answer_recipe import half_denoised
from fkdiff.zoo.answerer import Answerer, AnswerNet
from fkdiff.zoo.autoencoder import pictures
from fkdiff.zoo.clauses import Clause, clauses, probabilities
from fkdiff.zoo.loop import Draws
from fkdiff.zoo.negatives import wrong_captions
from fkdiff.zoo.parse import parse
from fkdiff.zoo.render import Sprite, render
from fkdiff.zoo.scenes import Scene, sample_scene

__all__ = [
    "calibrate",
    "export_answerer",
    "fitted_scale",
    "is_true",
    "stated_values",
    "tune_prompts",
]

_SEED = 9_000_001
_TINY = 1e-6


def is_true(clause: Clause, scene: Scene) -> bool:
    """Whether a clause, of a scene's caption or of one wrong about it, is true of the scene.

    >>> scene = parse("a cat above an owl on a red background")
    >>> is_true(Clause("background", (), "red"), scene)
    True
    >>> is_true(Clause("nothing else", ("cat",)), scene)
    False
    """
    if clause.kind == "nothing else":
        return {thing.name for thing in scene.things} <= set(clause.names)
    return clause in clauses(scene)


@torch.no_grad()
def _examples(net: AnswerNet, sprites: Sprite, pipe: Any, count: int) -> dict[str, list[Any]]:
    """Kind of clause -> (logit, truth) of the clauses of right and wrong captions."""
    found: dict[str, list[Any]] = {}
    for index in range(count // 50):
        draws = Draws(_SEED, index)
        scenes = [sample_scene(draws.rng, split="all") for _ in range(50)]
        x = pictures([render(scene, sprites, draws.rng) for scene in scenes])
        x[:25] = half_denoised(pipe, x[:25], [scene.caption for scene in scenes[:25]], draws, 300)
        for row, scene in enumerate(scenes):
            answers = net.answers(x[row : row + 1])
            for text in (scene.caption, *wrong_captions(scene, draws.rng).values()):
                told = parse(text)
                p = probabilities(answers, told)[0].clamp(_TINY, 1 - _TINY).logit()
                for clause, logit in zip(clauses(told), p.tolist(), strict=True):
                    found.setdefault(clause.kind, []).append((logit, is_true(clause, scene)))
    return found


def fitted_scale(logits: Tensor, true: Tensor) -> tuple[float, float]:
    r"""Slope and shift (a, b) of the likeliest $\sigma(a l + b)$, with a weak pull to (1, 0)."""
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    anchor = scale.detach().clone()
    optimiser = torch.optim.LBFGS([scale], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(scale[0] * logits + scale[1], true)
        loss = loss + (scale - anchor).square().sum() / len(logits)
        loss.backward()
        return loss

    optimiser.step(closure)
    slope, shift = scale.detach().tolist()
    return round(slope, 4), round(shift, 4)


def calibrate(
    net: AnswerNet, sprites: Sprite, pipe: Any, count: int = 1000
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Scales by kind of clause from half of some pictures, and how they do on the other half.

    Returns:
        Kind -> (a, b); kind -> Brier score before and after, and the share that is true. Kinds of
        which nothing false was seen get the scale of all.
    """
    scales, quality = {}, {}
    found = _examples(net, sprites, pipe, count)
    everything = [example for kind in found.values() for example in kind[::2]]
    for kind, examples in found.items():
        fit = examples[::2] if len({true for _, true in examples}) == 2 else everything
        logits, true = torch.tensor(fit, dtype=torch.float64).T
        a, b = fitted_scale(logits, true)
        tested, truth = torch.tensor(examples[1::2], dtype=torch.float64).T
        scores = [
            round(float((p - truth).square().mean()), 4)
            for p in (tested.sigmoid(), (a * tested + b).sigmoid())
        ]
        scales[kind] = (a, b)
        quality[kind] = {"brier before": scores[0], "brier": scores[1], "true": round(
            float(truth.mean()), 3)}  # fmt: skip
    return scales, quality


@torch.no_grad()
def stated_values(answerer: Answerer, images: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Mean and deviation of the reward over plain pictures."""
    values = answerer(images, texts)
    return {"mean": round(float(values.mean()), 4), "sd": round(float(values.std()), 4)}


def export_answerer(net: AnswerNet, target: Path) -> None:
    """Writes the weights as `load_answerer` reads them, fp16 safetensors."""
    target.mkdir(parents=True, exist_ok=True)
    half = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    save_file(half, target / "model.safetensors")
    (target / "model.safetensors").chmod(0o644)


def tune_prompts(count: int) -> list[str]:
    """So many of the prompts "tune", spread over the list."""
    lines = prompts("tune")
    return [lines[i] for i in np.linspace(0, len(lines) - 1, count).astype(int)]

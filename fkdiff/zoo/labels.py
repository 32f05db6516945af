"""Pictures that `emoji` drew, labelled by eye: how far `emoji-judge` agrees with people."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fkdiff.zoo import card, digest, path, prompts
from fkdiff.zoo.judge import Judge
from fkdiff.zoo.measure import sample_prompts

__all__ = ["agreement", "draw_sheet", "read_sheet"]

_SIDE, _COLUMNS = 64, 10
_SHEET, _LABELS = "labelled.png", "labelled.json"


def draw_sheet(folder: Path, n: int = 100) -> None:
    """Draws plain pictures of every kind of prompt, to be labelled in `labelled.json` by hand.

    Arguments:
        folder: Where the sheet of pictures and the labels go, "met" null for each.
        n: How many, a multiple of 10; prompts are spread over the list "eval".
    """
    lines = prompts("eval")
    chosen = [lines[i] for i in np.linspace(0, len(lines) - 1, n).astype(int)]
    drawn = sample_prompts(path("emoji"), chosen, card("emoji")["defaults"]["guidance_scale"])
    rows = drawn.images.reshape(-1, _COLUMNS, 3, _SIDE, _SIDE).permute(0, 3, 1, 4, 2)
    pixels = (rows.reshape(-1, _COLUMNS * _SIDE, 3) * 255 + 0.5).to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / _SHEET, optimize=True)
    labels = [{"prompt": prompt, "met": None} for prompt in chosen]
    told = {"emoji": digest("emoji"), "pictures": labels}
    (folder / _LABELS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_sheet(folder: Path) -> tuple[Tensor, list[str], list[bool]]:
    """Pictures (n, 3, 64, 64) in [0, 1], their prompts, and whether people say that they are met.

    Raises:
        ValueError: If a picture has no label yet.
    """
    pixels = torch.from_numpy(np.array(Image.open(folder / _SHEET).convert("RGB"))) / 255
    rows = pixels.reshape(-1, _SIDE, _COLUMNS, _SIDE, 3).permute(0, 2, 4, 1, 3)
    labels = json.loads((folder / _LABELS).read_text(encoding="utf-8"))["pictures"]
    unlabelled = [i for i, label in enumerate(labels) if label["met"] is None]
    if unlabelled:
        raise ValueError(
            f'"met" must be true or false, got null for picture {unlabelled[0]} of '
            f"{folder / _LABELS}; look at it and label it"
        )
    images = rows.reshape(-1, 3, _SIDE, _SIDE)
    return images, [label["prompt"] for label in labels], [label["met"] for label in labels]


def agreement(judge: Judge, folder: Path) -> dict[str, float]:
    """The share of the labelled pictures of which the judge says what people say."""
    images, texts, met = read_sheet(folder)
    said = judge.passes(images, texts)
    same = [a == b for a, b in zip(said, met, strict=True)]
    return {
        "agreement": round(float(np.mean(same)), 3),
        "met by people": round(float(np.mean(met)), 3),
        "met by the judge": round(float(np.mean(said)), 3),
        "pictures": len(met),
    }

"""The README's picture: 24 cut-outs by `emoji` on a checkerboard and on a photo-like background.

`python -m fkdiff.bench.cutout_sheet docs/cutouts.jpg` draws it anew: one subject a cell, the
best of a cloud of 4 by the reward of the composite (`--particles 1`: as they come).
"""

from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fkdiff import Cutout, Tilt, steer
from fkdiff.bench.emoji_arms import emoji
from fkdiff.rewards.rgba import OverBackgrounds
from fkdiff.rgba import checkerboard, over
from fkdiff.zoo.composites import ground
from fkdiff.zoo.words import OBJECTS, with_article

__all__ = ["cut_outs", "sheet"]

COLUMNS, ROWS, ZOOM = 6, 4, 2


def cut_outs(names: list[str], particles: int, seed: int, steps: int = 30) -> Tensor:
    """Cut-outs of single objects, (n, 4, 64, 64) in [0, 1]: the best of so many by the reward."""
    pipe, found = emoji(), []
    tilts = [Tilt(OverBackgrounds("emoji-clip"), 4)] if particles > 1 else []
    for index, name in enumerate(tqdm(names, desc="cut-outs")):
        steered = steer(pipe, Cutout(), *tilts, particles=particles, seed=seed + index)
        prompt = f"{with_article(name)} on a white background"
        out = steered(prompt, num_inference_steps=steps, output_type="pt")
        found.append(torch.as_tensor(out.images[0]).float())
    return torch.stack(found)


def sheet(cutouts: Tensor, seed: int = 0) -> Image.Image:
    """24 cut-outs (24, 4, h, w) twice: on a checkerboard, and on photo-like noise."""
    size = cutouts.shape[-1]
    rows = cutouts.reshape(ROWS, COLUMNS, *cutouts.shape[1:])
    whole = rows.permute(2, 0, 3, 1, 4).reshape(4, ROWS * size, COLUMNS * size)
    noise = ground("textured", np.random.default_rng(seed), COLUMNS * size)[: ROWS * size]
    grounds = (checkerboard(ROWS * size, COLUMNS * size), torch.from_numpy(noise).movedim(-1, 0))
    pictures = torch.cat([over(whole, behind) for behind in grounds], 2)
    image = Image.fromarray((255 * pictures + 0.5).movedim(0, -1).byte().numpy())
    return image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.LANCZOS)


def main(file: Path, particles: int = 4, seed: int = 0, steps: int = 30) -> None:
    """Draw the picture into the file that is named."""
    cutouts = cut_outs(list(OBJECTS)[: ROWS * COLUMNS], particles, seed, steps)
    sheet(cutouts, seed).save(file, quality=85)


if __name__ == "__main__":
    typer.run(main)

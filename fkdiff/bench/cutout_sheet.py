"""The README's picture: 24 cut-outs by `emoji` on a checkerboard and on a photo-like background.

`python -m fkdiff.bench.cutout_sheet docs/cutouts.jpg` draws it anew: one subject a cell, the
best of a cloud of 4 by the reward of the composite (`--particles 1`: as they come).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fkdiff.bench.emoji_arms import emoji
from fkdiff.rewards.rgba import OverBackgrounds
from fkdiff.rgba import Cutout, checkerboard, over
from fkdiff.steering import steer
from fkdiff.terms import Tilt
from fkdiff.zoo.composites import ground
from fkdiff.zoo.words import OBJECTS, with_article

__all__ = ["cut_outs", "sheet"]

COLUMNS, ROWS, ZOOM = 6, 4, 2


def cut_outs(names: list[str], particles: int, seed: int, steps: int = 30) -> Tensor:
    """Cut-outs of single objects, (n, 4, 64, 64) in [0, 1].

    Arguments:
        names: Objects that `emoji` knows.
        particles: Pictures from which each is the best by its reward; 1 for no reward.
        seed: Of the first.
        steps: Denoising steps.
    """
    pipe, found = emoji(), []
    tilts = [Tilt(OverBackgrounds("emoji-clip"), 4)] if particles > 1 else []
    for index, name in enumerate(tqdm(names, desc="cut-outs")):
        steered = steer(pipe, Cutout(), *tilts, particles=particles, seed=seed + index)
        prompt = f"{with_article(name)} on a white background"
        out = steered(prompt, num_inference_steps=steps, output_type="pt")
        found.append(torch.as_tensor(out.images[0]).float())
    return torch.stack(found)


def sheet(cutouts: Tensor, seed: int = 0) -> Image.Image:
    """24 cut-outs twice: on a checkerboard, and on a photo-like background made of noise.

    Arguments:
        cutouts: (24, 4, h, w) in [0, 1].
        seed: Of the background.
    """
    size = cutouts.shape[-1]
    rows = cutouts.reshape(ROWS, COLUMNS, *cutouts.shape[1:])
    whole = rows.permute(2, 0, 3, 1, 4).reshape(4, ROWS * size, COLUMNS * size)
    noise = ground("textured", np.random.default_rng(seed), COLUMNS * size)[: ROWS * size]
    grounds = (checkerboard(ROWS * size, COLUMNS * size), torch.from_numpy(noise).movedim(-1, 0))
    pictures = torch.cat([over(whole, behind) for behind in grounds], 2)
    image = Image.fromarray((255 * pictures + 0.5).movedim(0, -1).byte().numpy())
    return image.resize((ZOOM * image.width, ZOOM * image.height), Image.Resampling.LANCZOS)


def main() -> None:
    """Draw the picture into the file that is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    for name, default in (("particles", 4), ("seed", 0), ("steps", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    names = list(OBJECTS)[: ROWS * COLUMNS]
    cutouts = cut_outs(names, given.particles, given.seed, given.steps)
    sheet(cutouts, given.seed).save(given.file, quality=85)


if __name__ == "__main__":
    main()

"""Pictures with known alpha: emoji that no model here was trained on, over made-up grounds."""

import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fkdiff.zoo.sprites import squared
from fkdiff.zoo.words import OBJECTS

__all__ = ["GROUNDS", "Composite", "composites", "ground", "load_unseen", "smooth_noise"]

GROUNDS = ("plain", "gradient", "textured")
# Blocks of plants, food, animals and things: symbols, flags, hands and skin tones lie elsewhere.
_BLOCKS = ((0x1F330, 0x1F393), (0x1F3A0, 0x1F3F0), (0x1F400, 0x1F441), (0x1F451, 0x1F463))
_BLOCKS += ((0x1F488, 0x1F493), (0x1F4A1, 0x1F4A2), (0x1F4B0, 0x1F4B1), (0x1F4BB, 0x1F4FF))
_BLOCKS += ((0x1F680, 0x1F68D), (0x1F691, 0x1F6A4), (0x1F940, 0x1F970), (0x1F980, 0x1F9B4))
_BLOCKS += ((0x1F9C0, 0x1F9CC), (0x1F9E0, 0x1FA00))

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Composite:
    """A picture with all that it was made of.

    Arguments:
        image: (h, w, 3) in [0, 1], rounded to 8 bits.
        alpha: (h, w) in [0, 1].
        colour: Straight colour of the subject, (h, w, 3); without meaning where alpha is 0.
        ground: (h, w, 3) in [0, 1].
        name: Code point of the subject.
    """

    image: Array
    alpha: Array
    colour: Array
    ground: Array
    name: str


def load_unseen(tarball: Path, side: int = 128) -> dict[str, Array]:
    """Art of things that no scene shows, (side, side, 4) with straight alpha, by code point."""
    trained = set(OBJECTS.values())
    art = {}
    with tarfile.open(tarball) as archive:
        for member in archive.getmembers():
            code = Path(member.name).stem
            if not re.fullmatch(r"1f[0-9a-f]{3}", code) or code in trained:
                continue
            file = archive.extractfile(member)
            if file is not None and any(a <= int(code, 16) < b for a, b in _BLOCKS):
                picture = Image.open(io.BytesIO(file.read())).convert("RGBA")
                art[code] = squared(picture, side)
    return dict(sorted(art.items()))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise in [0, 1], (size, size): values on a grid of cells, enlarged."""
    values = (255 * rng.random((cells, cells))).astype(np.uint8)
    image = Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / np.float32(255)


def ground(kind: str, rng: np.random.Generator, size: int) -> Array:
    """A background, (size, size, 3) in [0, 1]: one colour, a ramp of two, or photo-like noise."""
    one, two = rng.random((2, 3)).astype(np.float32)
    if kind == "plain":
        share = np.zeros((size, size), np.float32)
    elif kind == "gradient":
        turn = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
        share = (0.5 + (np.cos(turn) * x + np.sin(turn) * y) / np.sqrt(2)).astype(np.float32)
    elif kind == "textured":
        octaves = [smooth_noise(rng, size, cells) / cells**0.5 for cells in (3, 6, 12, 24)]
        share = np.sum(octaves, 0) / sum(1 / cells**0.5 for cells in (3, 6, 12, 24))
    else:
        raise ValueError(f"kind must be one of {', '.join(GROUNDS)}, got {kind!r}")
    mixed = one + share[..., None] * (two - one)
    if kind == "textured":
        mixed = mixed + rng.normal(0, 0.02, mixed.shape)
    return mixed.clip(0, 1).astype(np.float32)


def composites(
    art: dict[str, Array], kind: str, count: int, seed: int, size: int = 64
) -> list[Composite]:
    """So many composites over backgrounds of one kind, a subject each, whole and somewhere.

    Arguments:
        art: Word -> (side, side, 4), straight alpha.
        kind: One of `GROUNDS`.
        count: How many.
        seed: Of subjects, places, sizes and grounds.
        size: Side of the pictures, pixels.
    """
    rng, made = np.random.default_rng([seed, GROUNDS.index(kind)]), []
    for name in rng.choice(sorted(art), count, replace=count > len(art)):
        side = int(rng.integers(size // 2, 13 * size // 16))
        x, y = (int(v) for v in rng.integers(1, size - side, 2))
        made.append(_composite(art[str(name)], ground(kind, rng, size), side, x, y, str(name)))
    return made


def _composite(art: Array, behind: Array, side: int, x: int, y: int, name: str) -> Composite:
    image = Image.fromarray((art * 255 + 0.5).astype(np.uint8), "RGBA").convert("RGBa")
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float32) / 255
    alpha, colour = np.zeros(behind.shape[:2], np.float32), np.zeros_like(behind)
    alpha[y : y + side, x : x + side] = small[..., 3]
    premultiplied = np.minimum(small[..., :3], small[..., 3:])  # Lanczos overshoots
    straight = premultiplied / np.maximum(small[..., 3:], 1 / 255)
    colour[y : y + side, x : x + side] = straight
    mixed = alpha[..., None] * colour + (1 - alpha[..., None]) * behind
    rounded = np.round(255 * mixed).astype(np.float32) / np.float32(255)
    return Composite(rounded, alpha, colour, behind, name)

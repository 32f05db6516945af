"""Sprites drawn by the tests themselves: the recipes must not need the network here."""

import colorsys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fkdiff.zoo.sprites import Sprites
from fkdiff.zoo.words import OBJECTS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # One thread: sums run in one order, and small matrices are faster.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shape(name: str, side: int = 64) -> NDArray[np.float32]:
    """A disc or a box whose colour and outline depend on the name, (side, side, 4)."""
    code = zlib.crc32(name.encode())
    rgb = colorsys.hsv_to_rgb(code % 97 / 97, 0.9, 0.5 + code % 5 / 10)
    image = Image.new("RGBA", (side, side))
    draw = (ImageDraw.Draw(image).ellipse, ImageDraw.Draw(image).rectangle)[code % 2]
    draw((4, 4 + code % 20, side - 4, side - 4), fill=tuple(round(255 * c) for c in rgb))
    return np.asarray(image, np.float32) / 255


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    return Sprites({name: shape(name) for name in OBJECTS})

"""Draws scenes: where the sprites go, and their compositing over the background."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fkdiff.zoo.words import BACKGROUNDS

if TYPE_CHECKING:
    from fkdiff.zoo.scenes import Scene

__all__ = ["CELL", "SIZE", "Sprite", "layout", "paint", "render"]

SIZE = 64
"""Side of a picture, pixels."""

Sprite = Callable[[str, str | None, int], NDArray[np.float32]]
"""(name, colour, side) -> (side, side, 4) RGBA in [0, 1], colour already multiplied by alpha."""

CELL = 4
"""Places and sides are multiples of this, the autoencoder's cell, pixels.

A sprite then has one latent pattern for each side, not sixteen, and is learnt in far fewer scenes.
"""

# Number of sprites -> their side, cells. Few sides, since each has patterns of its own to learn.
_SIDES = {1: 8, 2: 8, 3: 6, 4: 6, 5: 5}
# Number of sprites -> step of their places, cells. Two where there is room: the denoiser halves
# its grid, so that it then sees one pattern for each side there too.
_STEPS = {1: 2, 2: 2, 3: 2, 4: 2, 5: 1}
_JITTER = 7.0
"""Standard deviation of the background colour, of 255."""


def _spread(rng: np.random.Generator, n: int, side: int) -> NDArray[np.int64]:
    """Corners (n, 2) as (x, y) of n squares that don't overlap, or hardly if there is no room."""
    room, gap, tries = SIZE // CELL - side, side, 0
    corners: list[NDArray[np.int64]] = []
    while len(corners) < n:
        spot = _STEPS[n] * rng.integers(0, room // _STEPS[n] + 1, 2)
        if all(np.abs(spot - other).max() >= gap for other in corners):
            corners.append(spot)
        tries += 1
        if tries % 40 == 0:
            corners.clear()
            gap -= tries % 800 == 0
    return np.array(corners)


def _related(rng: np.random.Generator, relation: str, side: int) -> NDArray[np.int64]:
    """Corners (2, 2) as (x, y) of two squares, the first on the stated side of the second."""
    step = _STEPS[2]
    room = (SIZE // CELL - side) // step
    apart = -(-side // step)
    near = rng.integers(0, room - apart + 1)
    far = rng.integers(near + apart, room + 1)
    across = rng.integers(0, room + 1)
    # The other axis hardly varies, so that one relation holds, not two.
    other = np.clip(across + rng.integers(-1, 2), 0, room)
    first_is_near = relation in ("to the left of", "above")
    along = (near, far) if first_is_near else (far, near)
    corners = step * np.array([(along[0], across), (along[1], other)])
    return corners if "the" in relation else corners[:, ::-1]


def layout(scene: "Scene", rng: np.random.Generator) -> list[tuple[Any, int, int, int]]:
    """Where each sprite goes: (thing, side, x, y), pixels."""
    things = scene.things * scene.count
    if not things:
        return []
    side = _SIDES[len(things)]
    if scene.relation is not None:
        corners = CELL * _related(rng, scene.relation, side)
    else:
        corners = CELL * _spread(rng, len(things), side)
    spots = zip(things, corners.tolist(), strict=True)
    return [(thing, CELL * side, x, y) for thing, (x, y) in spots]


def render(scene: "Scene", sprites: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a scene, (64, 64, 3) uint8.

    Arguments:
        scene: What to show.
        sprites: Where the art comes from.
        rng: Chooses places, sizes and the shade of the background.
    """
    return paint(scene.background, layout(scene, rng), sprites, rng)


def paint(
    background: str,
    places: list[tuple[Any, int, int, int]],
    sprites: Sprite,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Composites sprites at (thing, side, x, y) in order over a background, (64, 64, 3) uint8."""
    shade = np.array(BACKGROUNDS[background]) + rng.normal(0, _JITTER, 3)
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = np.clip(shade, 0, 255) / 255
    for thing, side, x, y in places:
        art = sprites(thing.name, thing.colour, side)
        patch = canvas[y : y + side, x : x + side]
        patch *= 1 - art[..., 3:]
        patch += art[..., :3]
    return (canvas * 255 + 0.5).astype(np.uint8)

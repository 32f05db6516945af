"""Draws scenes: where the sprites go, and their compositing over the background."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fkdiff.zoo.words import BACKGROUNDS

if TYPE_CHECKING:
    from fkdiff.zoo.scenes import Scene

__all__ = ["SIZE", "Sprite", "layout", "paint", "render"]

SIZE = 64
"""Side of a picture, pixels."""

Sprite = Callable[[str, str | None, int], NDArray[np.float32]]
"""(name, colour, side) -> (side, side, 4) RGBA in [0, 1], colour already multiplied by alpha."""

# Number of sprites -> smallest and largest side, pixels.
_SIDES = {1: (36, 50), 2: (26, 31), 3: (22, 27), 4: (20, 25), 5: (18, 22)}
_JITTER = 7.0
"""Standard deviation of the background colour, of 255."""


def _spread(rng: np.random.Generator, n: int, side: int) -> NDArray[np.int64]:
    """Corners (n, 2) as (x, y) of n squares that hardly overlap, the side shrinking if it must."""
    gap = 0.94 * side
    corners: list[NDArray[np.int64]] = []
    tries = 0
    while len(corners) < n:
        spot = rng.integers(0, SIZE - side + 1, 2)
        if all(np.abs(spot - other).max() >= gap for other in corners):
            corners.append(spot)
        tries += 1
        if tries % 40 == 0:
            corners.clear()
            gap -= 0.5
    return np.array(corners)


def _related(rng: np.random.Generator, relation: str, side: int) -> NDArray[np.int64]:
    """Corners (2, 2) as (x, y) of two squares, the first on the stated side of the second."""
    room = SIZE - side
    near = rng.integers(0, room - side + 1)
    far = rng.integers(near + side, room + 1)
    across = rng.integers(0, room + 1)
    # The other axis varies less than a third of the side, so that one relation holds, not two.
    other = np.clip(across + rng.integers(-side // 4, side // 4 + 1), 0, room)
    first_is_near = relation in ("to the left of", "above")
    along = (near, far) if first_is_near else (far, near)
    corners = np.array([(along[0], across), (along[1], other)])
    return corners if "the" in relation else corners[:, ::-1]


def layout(scene: "Scene", rng: np.random.Generator) -> list[tuple[Any, int, int, int]]:
    """Where each sprite goes: (thing, side, x, y), pixels."""
    things = scene.things * scene.count
    if not things:
        return []
    low, high = _SIDES[len(things)]
    side = 2 * int(rng.integers(low, high + 1) // 2)
    if scene.relation is not None:
        corners = _related(rng, scene.relation, side)
    else:
        corners = _spread(rng, len(things), side)
    return [(thing, side, int(x), int(y)) for thing, (x, y) in zip(things, corners, strict=True)]


def render(scene: "Scene", sprites: Sprite, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a scene, (64, 64, 3) uint8.

    Args:
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

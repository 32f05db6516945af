"""Draws scenes: where the sprites go, and their compositing over the background."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fkdiff.zoo.held_out import held_out_binding
from fkdiff.zoo.words import BACKGROUNDS, BETWEEN, COLOURS, SAME

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
_SIDES = {1: 8, 2: 8, 3: 6, 4: 6, 5: 5, 6: 5}
_SIZED = {"small": 4, "big": 10}
_LINE = 5
"""Side of each of three sprites in a row, cells."""
# Number of sprites -> step of their places, cells. Two where there is room: the denoiser halves
# its grid, so that it then sees one pattern for each side there too.
_STEPS = {1: 2, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1}
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


def _row(rng: np.random.Generator) -> NDArray[np.int64]:
    """Corners (3, 2) as (x, y) of three squares in a row or column, the first in the middle."""
    room = SIZE // CELL - _LINE
    middle = rng.integers(_LINE, room - _LINE + 1)
    ends = np.array([rng.integers(0, middle - _LINE + 1), rng.integers(middle + _LINE, room + 1)])
    along = np.array([middle, *rng.permutation(ends)])
    # The other axis hardly varies, so that it is a row.
    across = np.clip(rng.integers(0, room + 1) + rng.integers(-1, 2, 3), 0, room)
    corners = np.stack([along, across], 1)
    return corners if rng.random() < 0.5 else corners[:, ::-1]


def _sized(rng: np.random.Generator, sides: list[int]) -> NDArray[np.int64]:
    """Corners (n, 2) as (x, y) of one or two squares of the given sides that don't overlap."""
    while True:
        corners = np.array([2 * rng.integers(0, (SIZE // CELL - s) // 2 + 1, 2) for s in sides])
        first, last = corners[0], corners[-1]
        free = (first + sides[0] <= last) | (last + sides[-1] <= first)
        if len(sides) == 1 or free.any():
            return corners


def _colour_both(scene: "Scene", rng: np.random.Generator) -> tuple[Any, ...]:
    """The things of a scene in one colour, one that training shows for each if there is one."""
    colours = [colour for colour in COLOURS if colour != scene.background]
    dressed = [tuple(replace(t, colour=c) for t in scene.things) for c in colours]
    shown = [things for things in dressed if not any(map(held_out_binding, things))] or dressed
    return shown[int(rng.integers(len(shown)))]


def layout(scene: "Scene", rng: np.random.Generator) -> list[tuple[Any, int, int, int]]:
    """Where each sprite goes: (thing, side, x, y), pixels."""
    things = scene.shown
    if not things:
        return []
    sides = [_SIDES[len(things)]] * len(things)
    if scene.relation == BETWEEN:
        sides, corners = [_LINE] * 3, _row(rng)
    elif scene.relation == SAME:
        things, corners = _colour_both(scene, rng), _spread(rng, 2, sides[0])
    elif scene.relation is not None:
        corners = _related(rng, scene.relation, sides[0])
    elif any(thing.size for thing in things):
        sides = [_SIZED.get(thing.size or "", sides[0]) for thing in things]
        corners = _sized(rng, sides)
    else:
        corners = _spread(rng, len(things), sides[0])
    spots = zip(things, sides, (CELL * corners).tolist(), strict=True)
    return [(thing, CELL * side, x, y) for thing, side, (x, y) in spots]


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

"""Recipe of `emoji-judge`: scenes at places and sizes of its own, with things that are no objects.

Nothing here is shared with `emoji-clip` but the art: other architecture, layouts, seeds and
augmentations, so that what fools the reward need not fool the judge.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.zoo.autoencoder import encode, pictures
from fkdiff.zoo.judge import CLASSES, GRID, SIDE, TINTS, Judge, JudgeNet, met
from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.render import SIZE, Sprite, paint, render
from fkdiff.zoo.scenes import KINDS, sample_scene
from fkdiff.zoo.words import BACKGROUNDS, BINDABLE, COLOURS, OBJECTS

__all__ = ["Drawn", "JudgeTask", "draw", "exact_share"]

_CELL = SIZE // GRID
_IGNORED = -100
_NAMES = list(OBJECTS)
_GROUNDS = list(BACKGROUNDS)
# Number of things -> smallest and largest side, pixels.
_SIDES = {0: (0, 0), 1: (22, 52), 2: (20, 36), 3: (18, 30), 4: (17, 26), 5: (17, 23), 6: (16, 21)}
_UNCLEAN = 0.12
_EMPTY_WEIGHT = 0.3


@dataclass(frozen=True)
class Drawn:
    """A picture (64, 64, 3) uint8; of each cell (8, 8) class, tint, side (0: none); its ground."""

    image: NDArray[np.uint8]
    classes: NDArray[np.int64]
    tints: NDArray[np.int64]
    sides: NDArray[np.float32]
    ground: int


@dataclass(frozen=True)
class _Piece:
    """What `paint` asks a thing for: the art is found by this object itself."""

    name: str
    colour: str | None
    art: NDArray[np.float32]


def _thing(rng: np.random.Generator) -> tuple[str, str | None]:
    if rng.random() < 0.5:
        return str(rng.choice(BINDABLE)), str(rng.choice(COLOURS))
    return str(rng.choice(_NAMES)), None


def _blob(art: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The art shrunk to a few pixels and enlarged again."""
    x = torch.from_numpy(art).permute(2, 0, 1)[None]
    small = F.interpolate(x, size=side, mode="bilinear", antialias=True)
    full = F.interpolate(small, size=art.shape[:2], mode="bilinear")
    return full[0].permute(1, 2, 0).numpy()


def _unclean(sprites: Sprite, rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """A blend of two objects, halves of two, half of one, or a blob."""
    one, two = (sprites(*_thing(rng), side) for _ in range(2))
    how, half = rng.integers(4), side // 2
    if how == 0:
        share = rng.uniform(0.35, 0.65)
        return (share * one + (1 - share) * two).astype(np.float32)
    mixed = one.copy()
    if how == 1:
        mixed[half:] = two[half:]
    elif how == 2:
        mixed[:, half:] = two[:, half:]
    else:
        return _blob(one, int(rng.integers(2, 5)))
    return mixed


def _places(rng: np.random.Generator, n: int, side: int) -> list[tuple[int, int]]:
    """Corners (x, y) of n squares that overlap by a tenth at most, fewer if there is no room."""
    corners: list[tuple[int, int]] = []
    for _ in range(30 * n):
        x, y = (int(v) for v in rng.integers(0, SIZE - side + 1, 2))
        if all(max(abs(x - u), abs(y - v)) >= 0.9 * side for u, v in corners):
            corners.append((x, y))
        if len(corners) == n:
            break
    return corners


def _mark(drawn: Drawn, x: float, y: float, piece: _Piece, side: int) -> None:
    """Labels the cell of a centre; its neighbours close to the centre may say either."""
    centres = _CELL * (np.arange(GRID) + 0.5)
    near = (np.abs(centres - x) < _CELL)[None, :] & (np.abs(centres - y) < _CELL)[:, None]
    drawn.classes[near & (drawn.classes == 0)] = _IGNORED
    row, column = (min(int(v // _CELL), GRID - 1) for v in (y, x))
    drawn.classes[row, column] = CLASSES.index(piece.name)
    drawn.sides[row, column] = side
    if piece.name in BINDABLE:
        drawn.tints[row, column] = TINTS.index(piece.colour or "own")


def draw(sprites: Sprite, rng: np.random.Generator) -> Drawn:
    """A random picture with its labels."""
    n = int(rng.choice(7, p=(0.03, 0.27, 0.25, 0.17, 0.14, 0.10, 0.04)))
    low, high = _SIDES[n]
    side = int(rng.integers(low, high + 1))
    ground = int(rng.integers(len(_GROUNDS)))
    drawn = Drawn(
        np.empty(0, np.uint8),
        np.zeros((GRID, GRID), np.int64),
        np.full((GRID, GRID), _IGNORED),
        np.zeros((GRID, GRID), np.float32),
        ground,
    )
    pieces = []
    for x, y in _places(rng, n, side):
        name, colour = _thing(rng)
        if rng.random() < _UNCLEAN:
            piece = _Piece("unclean", None, _unclean(sprites, rng, side))
        else:
            piece = _Piece(name, colour, sprites(name, colour, side))
        _mark(drawn, x + side / 2, y + side / 2, piece, side)
        pieces.append((piece, side, x, y))
    arts = iter(piece.art for piece, *_ in pieces)
    image = paint(_GROUNDS[ground], pieces, lambda *_: next(arts), rng)
    return replace(drawn, image=image)


class JudgeTask:
    """Cross entropies of cells, tints and ground on fresh pictures, most of them disturbed.

    Arguments:
        sprites: The art.
        vae: The autoencoder of `emoji`, whose blur the judge must see through; None: left out.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        batch: Pictures a step, a multiple of 8.
    """

    def __init__(
        self, sprites: Sprite, vae: AutoencoderTiny | None, fit: Fit, folder: Path, batch: int = 64
    ) -> None:
        torch.manual_seed(fit.seed)
        self.sprites, self.batch, self.device = sprites, batch, fit.device
        self.vae: Any = vae
        self.net = JudgeNet()
        self.net.to(memory_format=torch.channels_last)
        weights = torch.ones(len(CLASSES))
        weights[0] = _EMPTY_WEIGHT
        self.weights = weights.to(fit.device)
        self.trainer = Trainer(nn.ModuleDict({"judge": self.net}), self.loss, fit, folder)

    def _disturb(self, x: Tensor, draws: Draws) -> Tensor:
        """Half as they are or noisy, three eighths blurred, an eighth through the autoencoder."""
        n = self.batch // 8
        views = list(x.split(n))
        for index in (1, 2, 3):
            views[index] = views[index] + 0.15 * draws.uniform(n, 1, 1, 1) * draws.normal(
                *views[index].shape
            )
        for index in (4, 5, 6):
            side = int(draws.rng.integers(30, 60))
            small = F.interpolate(views[index], size=side, mode="bilinear", antialias=True)
            views[index] = F.interpolate(small, size=SIZE, mode="bicubic")
        if self.vae is not None:
            with torch.no_grad():
                z = encode(self.vae, views[7])
                noise = 0.15 * draws.uniform(n, 1, 1, 1) * z.std() * draws.normal(*z.shape)
                views[7] = self.vae.decode(z + noise).sample
        return torch.cat(views).clamp(-1, 1)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Class of every cell, tint and side of its object, ground of every picture."""
        drawn = [draw(self.sprites, draws.rng) for _ in range(self.batch)]
        x = self._disturb(pictures([one.image for one in drawn]), draws)
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        kinds, tints, sides, grounds = (part.float() for part in self.net(x))
        classes, tint, side = (
            torch.from_numpy(np.stack([getattr(one, part) for one in drawn])).to(self.device)
            for part in ("classes", "tints", "sides")
        )
        ground = torch.tensor([one.ground for one in drawn], device=self.device)
        loss = F.cross_entropy(kinds, classes, self.weights) + F.cross_entropy(grounds, ground)
        loss = loss + _side_error(sides, side)
        if (tint == _IGNORED).all():
            return loss
        return loss + 0.5 * F.cross_entropy(tints, tint)


def _side_error(sides: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of the logarithms of sides where there is an object."""
    known = true > 0
    error = sides - (true.clamp(min=1) / SIDE).log()
    return (error.square() * known).sum() / known.sum().clamp(min=1)


@torch.inference_mode()
def exact_share(
    judge: Judge, sprites: Sprite, vae: Any, *, each: int = 50, seed: int = 5
) -> dict[str, float]:
    """By kind and over "all": the share of scenes' renders that the judge says meet their caption.

    Arguments:
        judge: Who is tested.
        sprites: The art.
        vae: An `AutoencoderTiny` that the renders go through first; None: none.
        each: Scenes of each kind.
        seed: Of the scenes.
    """
    shares: dict[str, float] = {}
    for index, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, index, 99])
        scenes = [sample_scene(rng, kind=kind, split="all") for _ in range(each)]
        x = pictures([render(scene, sprites, rng) for scene in scenes])
        if vae is not None:
            x = vae.decode(encode(vae, x)).sample.clamp(-1, 1)
        sights = judge.look((x + 1) / 2)
        hits = [met(scene, sight) for scene, sight in zip(scenes, sights, strict=True)]
        shares[kind] = float(np.mean(hits))
    shares["all"] = float(np.mean(list(shares.values())))
    return {kind: round(share, 3) for kind, share in shares.items()}

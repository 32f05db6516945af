"""Recipe of `emoji-vqa`: pictures at sizes and places of its own, sharp, blurred, half denoised.

An eighth of each batch are denoised estimates of scenes at a random noise level, labelled with
what the scene shows: the estimate's most likely contents are learnt with their probabilities, so
that the reward sees early, and knows how little it knows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.zoo.answerer import AnswerNet
from fkdiff.zoo.autoencoder import encode, pictures
from fkdiff.zoo.clauses import CLASSES, GRID, TINTS, number_law
from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.render import SIZE, Sprite, layout, paint
from fkdiff.zoo.scenes import Scene, sample_scene
from fkdiff.zoo.words import BACKGROUNDS, BINDABLE, COLOURS, OBJECTS

__all__ = ["AnswerTask", "Labelled", "draw_labelled", "draw_scene", "half_denoised"]

_CELL = SIZE // GRID
_IGNORED = -100
_NAMES = list(OBJECTS)
_GROUNDS = list(BACKGROUNDS)
_UNCLEAN = 0.15
_EMPTY_WEIGHT = 0.3
# Sides up to which a thing is called small, and from which big, pixels.
_SMALL, _BIG = 22, 32
_NUMBERS = (0.03, 0.16, 0.22, 0.17, 0.16, 0.14, 0.12)
_LARGEST = (0, 50, 38, 31, 28, 24, 22)


@dataclass(frozen=True)
class Labelled:
    """A picture (64, 64, 3) uint8, class, tint and size of each cell (8, 8), and its ground."""

    image: NDArray[np.uint8]
    classes: NDArray[np.int64]
    tints: NDArray[np.int64]
    big: NDArray[np.int64]
    ground: int


@dataclass(frozen=True)
class _Piece:
    """A thing for `paint`, with the art that shows it."""

    name: str
    colour: str | None
    art: NDArray[np.float32]


def _turned(art: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The art turned by up to a dozen degrees, a little lighter or darker, perhaps mirrored."""
    image = Image.fromarray((art * 255 + 0.5).astype(np.uint8), "RGBA")
    image = image.rotate(float(rng.normal(0, 5)), Image.Resampling.BICUBIC)
    turned = np.asarray(image, np.float32) / np.float32(255)
    turned[..., :3] *= rng.uniform(0.85, 1.0)
    turned[..., :3] = np.minimum(turned[..., :3], turned[..., 3:])
    return turned[:, ::-1] if rng.random() < 0.2 else turned


def _spoilt(sprites: Sprite, rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """What is no whole object: two in one place, or one with a part cut off or smeared."""
    one, two = (sprites(*_thing(rng), side).copy() for _ in range(2))
    how, cut = int(rng.integers(3)), int(rng.uniform(0.35, 0.65) * side)
    if how == 0:
        cover = (rng.random((4, 4)) < 0.5).astype(np.uint8) * 255
        smooth = Image.fromarray(cover).resize((side, side), Image.Resampling.BICUBIC)
        share = np.asarray(smooth, np.float32)[..., None] / np.float32(255)
        return (share * one + (1 - share) * two).astype(np.float32)
    if how == 1:
        one[:, cut:] = 0 if rng.random() < 0.4 else two[:, cut:]
    else:
        return _smeared(one, int(rng.integers(2, 6)))
    return np.rot90(one, int(rng.integers(4))).copy()


def _smeared(art: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """The art with no more detail than so many cells a side."""
    image = Image.fromarray((art * 255 + 0.5).astype(np.uint8), "RGBa")
    small = image.resize((cells, cells), Image.Resampling.BOX)
    full = small.resize(art.shape[:2], Image.Resampling.BICUBIC)
    return np.asarray(full, np.float32) / np.float32(255)


def _thing(rng: np.random.Generator) -> tuple[str, str | None]:
    if rng.random() < 0.45:
        return str(rng.choice(BINDABLE)), str(rng.choice(COLOURS))
    return str(rng.choice(_NAMES)), None


def _empty(image: NDArray[np.uint8], ground: int) -> Labelled:
    classes = np.zeros((GRID, GRID), np.int64)
    nothing = np.full((GRID, GRID), _IGNORED)
    return Labelled(image, classes, nothing, nothing.copy(), ground)


def _label(to: Labelled, name: str, colour: str | None, side: int, x: int, y: int) -> None:
    """Labels the cell of a thing's centre; close to a border the next cell may say either."""
    across, down = (x + side / 2) / _CELL, (y + side / 2) / _CELL
    centres = np.arange(GRID) + 0.5
    near = (np.abs(centres - down) < 0.9)[:, None] & (np.abs(centres - across) < 0.9)[None]
    to.classes[near & (to.classes == 0)] = _IGNORED
    cell = min(int(down), GRID - 1), min(int(across), GRID - 1)
    to.classes[cell] = CLASSES.index(name)
    if name in BINDABLE:
        to.tints[cell] = TINTS.index(colour or "own")
    if side <= _SMALL or side >= _BIG:
        to.big[cell] = side >= _BIG


def _scattered(rng: np.random.Generator, n: int) -> list[tuple[int, int, int]]:
    """(side, x, y) of at most n squares of different sides that hardly overlap."""
    found: list[tuple[int, int, int]] = []
    for _ in range(25 * n):
        side = int(rng.integers(15, _LARGEST[n] + 1))
        x, y = (int(v) for v in rng.integers(0, SIZE - side + 1, 2))
        gaps = [max(abs(2 * (x - u) + side - s), abs(2 * (y - v) + side - s)) - side - s
                for s, u, v in found]  # fmt: skip
        if all(gap > -6 for gap in gaps):
            found.append((side, x, y))
        if len(found) == n:
            break
    return found


def draw_labelled(sprites: Sprite, rng: np.random.Generator) -> Labelled:
    """A random picture with its labels."""
    ground, places = int(rng.integers(len(_GROUNDS))), []
    labelled = _empty(np.empty(0, np.uint8), ground)
    repeated = _thing(rng) if rng.random() < 0.25 else None
    for side, x, y in _scattered(rng, int(rng.choice(7, p=_NUMBERS))):
        name, colour = repeated if repeated and rng.random() < 0.8 else _thing(rng)
        if rng.random() < _UNCLEAN:
            piece = _Piece("unclean", None, _spoilt(sprites, rng, side))
        else:
            piece = _Piece(name, colour, _turned(sprites(name, colour, side), rng))
        _label(labelled, piece.name, piece.colour, side, x, y)
        places.append((piece, side, x, y))
    arts = iter([piece.art for piece, *_ in places])
    image = paint(_GROUNDS[ground], places, lambda *_: next(arts), rng)
    return Labelled(image, labelled.classes, labelled.tints, labelled.big, ground)


def draw_scene(scene: Scene, sprites: Sprite, rng: np.random.Generator) -> Labelled:
    """A render of a scene with its labels."""
    places = layout(scene, rng)
    image = paint(scene.background, places, sprites, rng)
    labelled = _empty(image, _GROUNDS.index(scene.background))
    for thing, side, x, y in places:
        _label(labelled, thing.name, thing.colour, side, x, y)
    return labelled


@torch.no_grad()
def half_denoised(
    pipe: Any, images: Tensor, texts: list[str], draws: Draws, latest: int = 900
) -> Tensor:
    """Denoised estimates of noisy pictures, (n, 3, 64, 64) in [-1, 1], each at its own level.

    Arguments:
        pipe: The pipeline `emoji`.
        images: (n, 3, 64, 64) in [-1, 1].
        texts: Their captions.
        draws: Noise levels and noise.
        latest: Largest step index, of 1,000.
    """
    scale, schedule = pipe.vae.config.scaling_factor, pipe.scheduler.alphas_cumprod
    z = encode(pipe.vae, images) * scale
    times = (draws.uniform(len(z)) * latest).long()
    alpha = schedule[times].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - schedule[times]).sqrt().view(-1, 1, 1, 1)
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    noisy = alpha * z + sigma * draws.normal(*z.shape)
    text = pipe.text_encoder(ids.input_ids).last_hidden_state
    estimate = alpha * noisy - sigma * pipe.unet(noisy, times, text).sample.float()
    return pipe.vae.decode(estimate / scale).sample.float()


class AnswerTask:
    """Cross entropies of cells, tints, sizes and ground, and of the number of each class.

    Arguments:
        sprites: The art.
        pipe: `emoji`, for half-denoised pictures and the blur of its autoencoder; None: neither.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        batch: Pictures a step, a multiple of 8.
    """

    def __init__(
        self, sprites: Sprite, pipe: Any, fit: Fit, folder: Path, batch: int = 64
    ) -> None:
        torch.manual_seed(fit.seed)
        self.sprites, self.pipe, self.batch, self.device = sprites, pipe, batch, fit.device
        self.net = AnswerNet()
        self.net.to(memory_format=torch.channels_last)
        weights = torch.ones(len(CLASSES))
        weights[0] = _EMPTY_WEIGHT
        self.weights = weights.to(fit.device)
        self.trainer = Trainer(nn.ModuleDict({"vqa": self.net}), self.loss, fit, folder)

    def batch_of(self, draws: Draws) -> tuple[list[Labelled], Tensor]:
        """Labelled pictures and what the network sees of them, (batch, 3, 64, 64) in [-1, 1]."""
        n = self.batch // 8
        scenes = [sample_scene(draws.rng, split="all") for _ in range(2 * n)]
        drawn = [draw_scene(scene, self.sprites, draws.rng) for scene in scenes]
        drawn += [draw_labelled(self.sprites, draws.rng) for _ in range(6 * n)]
        views = list(pictures([one.image for one in drawn]).split(n))
        if self.pipe is not None:
            texts = [scene.caption for scene in scenes[:n]]
            views[0] = half_denoised(self.pipe, views[0], texts, draws)
            views[2] = self._through(views[2], draws)
        for index in (3, 4):
            views[index] = _smaller(views[index], draws)
        noise = 0.15 * draws.uniform(n, 1, 1, 1) * draws.normal(*views[5].shape)
        views[5] = views[5] + noise
        tone = 1 + 0.2 * (draws.uniform(self.batch, 1, 1, 1) - 0.5)
        x = torch.cat(views) * tone + 0.12 * (draws.uniform(self.batch, 3, 1, 1) - 0.5)
        return drawn, x.clamp(-1, 1)

    @torch.no_grad()
    def _through(self, x: Tensor, draws: Draws) -> Tensor:
        """Through the autoencoder, with disturbed latents."""
        z = encode(self.pipe.vae, x)
        noise = 0.3 * draws.uniform(len(x), 1, 1, 1) * z.std() * draws.normal(*z.shape)
        return self.pipe.vae.decode(z + noise).sample.float()

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Cells, tints, sizes, grounds, and the negative log-law of each class's number."""
        drawn, x = self.batch_of(draws)
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        kinds, tints, big, grounds = self.net(x)
        classes, tint, size = (
            torch.from_numpy(np.stack([getattr(one, part) for one in drawn])).to(self.device)
            for part in ("classes", "tints", "big")
        )
        ground = torch.tensor([one.ground for one in drawn], device=self.device)
        loss = F.cross_entropy(kinds, classes, self.weights) + F.cross_entropy(grounds, ground)
        loss = loss + 0.3 * _numbers(kinds, classes)
        if (tint != _IGNORED).any():
            loss = loss + 0.5 * F.cross_entropy(tints, tint)
        sized = size != _IGNORED
        if sized.any():
            wanted = size[sized].to(big)
            loss = loss + 0.2 * F.binary_cross_entropy_with_logits(big[sized], wanted)
        return loss


def _smaller(x: Tensor, draws: Draws) -> Tensor:
    """The pictures shrunk to a random size and enlarged again."""
    side = int(draws.rng.integers(22, 56))
    small = F.interpolate(x, size=side, mode="area")
    return F.interpolate(small, size=x.shape[-1], mode="bilinear")


def _numbers(kinds: Tensor, classes: Tensor) -> Tensor:
    """Mean over pictures of the negative log-probability of the number of each class."""
    p = kinds.flatten(2).softmax(1)[:, 1:].clamp(1e-6, 1 - 1e-6)
    true = F.one_hot(classes.flatten(1).clamp(min=0), len(CLASSES)).sum(1)[:, 1:]
    absent = -(torch.log1p(-p).sum(2) * (true == 0)).sum(1)
    rows, which = true.nonzero(as_tuple=True)
    law = number_law(p[rows, which])
    present = -law.gather(1, true[rows, which, None].clamp(max=law.shape[1] - 1)).clamp(1e-6).log()
    return (absent.sum() + present.sum()) / len(kinds)

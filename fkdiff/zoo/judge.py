"""`emoji-judge`: says what a picture shows, to check a model by; never a reward.

It finds objects on a grid of 8x8 cells and says of each what it is, in which colour and whether
it is clean; a caption is met if all that it says, and nothing else, was found.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.zoo.clauses import CLASSES, GRID, OWN, TINTS
from fkdiff.zoo.parse import parse
from fkdiff.zoo.scenes import Scene, Thing
from fkdiff.zoo.words import BACKGROUNDS, BETWEEN, BINDABLE, SAME

__all__ = [
    "CLASSES",
    "GRID",
    "SIDE",
    "TINTS",
    "Found",
    "Judge",
    "JudgeNet",
    "Sight",
    "load_judge",
    "met",
]

SIDE = 26.0
"""Side above which an object is big rather than small, pixels."""
_GROUNDS = tuple(BACKGROUNDS)


@dataclass(frozen=True)
class Found:
    """One object: its name, colour ("own" or a word), the cell (x, y) of its centre, its side."""

    name: str
    colour: str
    x: int
    y: int
    side: float = 26.0


@dataclass(frozen=True)
class Sight:
    """What a picture shows; `clean` is False if something in it is no whole object."""

    background: str
    objects: tuple[Found, ...]
    clean: bool = True


def _block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class JudgeNet(nn.Module):
    """A plain strided convolutional net of 2.0 M parameters: classes of cells, and the ground."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, 32, 2, 5),
            _block(32, 64, 1),
            _block(64, 128, 2),
            _block(128, 128, 1),
            _block(128, 192, 2),
            _block(192, 192, 1),
            _block(192, 192, 1),
            _block(192, 192, 1),
        )
        self.cell = nn.Conv2d(192, len(CLASSES) + len(TINTS), 1)
        self.side = nn.Conv2d(192, 1, 1)
        self.ground = nn.Linear(192, len(_GROUNDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What cells and the whole show.

        Arguments:
            x: Pictures, (n, 3, 64, 64), in [-1, 1].

        Returns:
            Logits of classes and of tints, (n, c, 8, 8), logarithms of sides in units of 26
            pixels, (n, 8, 8), and logits of the ground, (n, 10).
        """
        features = self.body(x)
        cells, sides = self.cell(features), self.side(features)[:, 0]
        split = len(CLASSES)
        return cells[:, :split], cells[:, split:], sides, self.ground(features.mean((2, 3)))


def _peaks(presence: Tensor) -> Tensor:
    """Cells where something is more likely than not, and likelier than in the cells around."""
    highest = F.max_pool2d(presence[:, None], 3, 1, 1)[:, 0]
    return (presence > 0.5) & (presence == highest)


def _tint(name: str, logits: Tensor) -> str:
    # Things that are never recoloured have no tint to learn, and the net's guess says nothing.
    return TINTS[int(logits.argmax())] if name in BINDABLE else "own"


class Judge:
    """Looks at pictures.

    Arguments:
        net: The trained net.
    """

    def __init__(self, net: JudgeNet) -> None:
        self.net = net.eval()

    @torch.inference_mode()
    def look(self, images: Tensor) -> list[Sight]:
        """What each picture shows.

        Arguments:
            images: (n, 3, 64, 64) in [0, 1].

        Raises:
            ValueError: `images` has another shape.
        """
        if images.ndim != 4 or images.shape[1:] != (3, 64, 64):
            shape = tuple(images.shape)
            raise ValueError(f"images must be (n, 3, 64, 64), got {shape}; resize them first")
        kinds, tints, sides, grounds = self.net(2 * images.float() - 1)
        peaks = _peaks(1 - kinds.softmax(1)[:, 0])
        sights = []
        for image in range(len(images)):
            places = peaks[image].nonzero().tolist()
            names = [CLASSES[1 + int(kinds[image, 1:, y, x].argmax())] for y, x in places]
            colours = [
                _tint(n, tints[image, :, y, x]) for n, (y, x) in zip(names, places, strict=True)
            ]
            lengths = [SIDE * math.exp(float(sides[image, y, x])) for y, x in places]
            cells = zip(names, colours, places, lengths, strict=True)
            objects = tuple(Found(n, c, x, y, s) for n, c, (y, x), s in cells if n != "unclean")
            ground = _GROUNDS[int(grounds[image].argmax())]
            sights.append(Sight(ground, objects, "unclean" not in names))
        return sights

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """What the net sees in whole pictures, (n, 192), for distances between sets of them."""
        return self.net.body(2 * images.float() - 1).mean((2, 3))

    def passes(self, images: Tensor, prompts: Sequence[str]) -> list[bool]:
        """Whether each picture meets its prompt.

        Arguments:
            images: (n, 3, 64, 64) in [0, 1].
            prompts: n captions as scenes have them.

        Raises:
            ValueError: There are not as many prompts as pictures, or one isn't such a caption.
        """
        if len(images) != len(prompts):
            raise ValueError(
                f"prompts must be one per picture, got {len(prompts)} for {len(images)} pictures"
            )
        scenes = [parse(prompt) for prompt in prompts]
        return [met(scene, sight) for scene, sight in zip(scenes, self.look(images), strict=True)]


def _coloured(found: Found, colour: str | None) -> bool:
    own = OWN.get(found.name)
    if colour is None:
        return found.colour in ("own", own)
    return found.colour == colour or (found.colour == "own" and own == colour)


def _looks(found: Found, thing: Thing, scene: Scene) -> bool:
    colour = scene.relation == SAME or _coloured(found, thing.colour)
    return colour and _sized(found, thing.size)


def _sized(found: Found, size: str | None) -> bool:
    return size is None or (found.side > SIDE) == (size == "big")


def _one_colour(found: tuple[Found, ...]) -> bool:
    named = {OWN.get(one.name) if one.colour == "own" else one.colour for one in found}
    return len(named) == 1 and None not in named


def _amid(middle: Found, first: Found, second: Found) -> bool:
    """Whether two objects are seen from a third in directions more than 120 degrees apart."""
    ax, ay = first.x - middle.x, first.y - middle.y
    bx, by = second.x - middle.x, second.y - middle.y
    return ax * bx + ay * by < -0.5 * math.hypot(ax, ay) * math.hypot(bx, by)


def _related(scene: Scene, objects: dict[str, Found]) -> bool:
    found = tuple(objects[thing.name] for thing in scene.things)
    if scene.relation == SAME:
        return _one_colour(found)
    if scene.relation == BETWEEN:
        return _amid(*found)
    across, down = found[0].x - found[1].x, found[0].y - found[1].y
    along, other = (across, down) if "the" in str(scene.relation) else (down, across)
    sign = -1 if scene.relation in ("to the left of", "above") else 1
    return sign * along > abs(other)


def met(scene: Scene, sight: Sight) -> bool:
    """Whether all that a scene says, and nothing else, was found.

    >>> from fkdiff.zoo.scenes import Thing
    >>> scene = Scene("single", (Thing("cat"),), "red")
    >>> met(scene, Sight("red", (Found("cat", "own", 3, 3),)))
    True
    >>> met(scene, Sight("red", (Found("cat", "own", 1, 1), Found("cat", "own", 6, 6))))
    False
    """
    if sight.background != scene.background or not sight.clean:
        return False
    wanted = Counter(thing.name for thing in scene.shown)
    if Counter(found.name for found in sight.objects) != wanted:
        return False
    things = {thing.name: thing for thing in scene.things}
    if not all(_looks(found, things[found.name], scene) for found in sight.objects):
        return False
    by_name = {found.name: found for found in sight.objects}
    return scene.relation is None or _related(scene, by_name)


def load_judge(folder: Path | None = None) -> Judge:
    """The bundled judge, or one in another folder."""
    net = JudgeNet()
    source = Path(__file__).parent / "emoji_judge" if folder is None else folder
    weights = load_file(source / "model.safetensors")
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return Judge(net.to(memory_format=torch.channels_last))

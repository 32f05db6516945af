r"""What a caption says, clause by clause, and how likely each clause is to be true of a picture.

A picture comes as the probabilities of what each cell of a grid shows (`Answers`). Cells are taken
as independent, so that the law of the number of cats is the exact law of a sum of independent
coins, and "left of" an expectation over pairs of cells: smooth in every cell, so that a gradient
can move an object, remove it, or make one where there is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fkdiff.zoo.scenes import Scene, Thing
from fkdiff.zoo.words import BACKGROUNDS, BETWEEN, BINDABLE, COLOURS, OBJECTS, SAME, SIZES

__all__ = [
    "CLASSES",
    "GRID",
    "OWN",
    "TINTS",
    "Answers",
    "Clause",
    "clauses",
    "number_law",
    "probabilities",
]

GRID = 8
"""Cells a side; one cell is 8 pixels."""
CLASSES: tuple[str, ...] = ("nothing", *OBJECTS, "unclean")
TINTS: tuple[str, ...] = ("own", *COLOURS)
_MOST = 7
_SOFT = 0.5  # cells over which a side changes from wrong to right
_TINY = 1e-6

OWN: dict[str, str] = {
    "apple": "red",
    "car": "red",
    "heart": "red",
    "balloon": "red",
    "crown": "yellow",
    "key": "yellow",
    "pear": "green",
    "fish": "blue",
    "umbrella": "purple",
}
"""The colour an object has of itself, where a caption may name that colour too."""


@dataclass(frozen=True)
class Clause:
    """One thing that a caption says: its kind, what it is about, and the value it must have.

    Kinds: "background", "count", "colour", "size", "side", "between", "same" and "nothing else".
    """

    kind: str
    names: tuple[str, ...] = ()
    value: str = ""


@dataclass(frozen=True)
class Answers:
    """Probabilities of n pictures' cells: everything that clauses are read from.

    Arguments:
        classes: What a cell is the centre of, (n, classes, 64), summing to 1 over classes.
        tints: Colour of what is there, (n, tints, 64), summing to 1 over tints.
        big: That it is big rather than small, (n, 64).
        grounds: Colour of the background, (n, 10), summing to 1.
    """

    classes: Tensor
    tints: Tensor
    big: Tensor
    grounds: Tensor

    def of(self, name: str) -> Tensor:
        """Probability that a cell is the centre of such an object, (n, 64)."""
        return self.classes[:, CLASSES.index(name)]

    def place(self, name: str) -> Tensor:
        """Where the object is if there is one, (n, 64), summing to 1."""
        found = self.of(name)
        return (found + _TINY) / (found + _TINY).sum(1, keepdim=True)


def clauses(scene: Scene) -> tuple[Clause, ...]:
    """Everything that a scene's caption says of a picture, and that there is nothing else.

    >>> from fkdiff.zoo.parse import parse
    >>> [c.kind for c in clauses(parse("a cat above an owl on a red background"))]
    ['background', 'count', 'count', 'nothing else', 'side']
    """
    found = [Clause("background", (), scene.background)]
    for index, thing in enumerate(scene.things):
        found.append(Clause("count", (thing.name,), str(1 if index else scene.count)))
    found.append(Clause("nothing else", tuple(thing.name for thing in scene.things)))
    for thing in scene.things:
        found.extend(_looks(thing, scene.relation))
    names = tuple(thing.name for thing in scene.things)
    if scene.relation == SAME:
        found.append(Clause("same", names))
    elif scene.relation == BETWEEN:
        found.append(Clause("between", names))
    elif scene.relation is not None:
        found.append(Clause("side", names, scene.relation))
    return tuple(found)


def _looks(thing: Thing, relation: str | None) -> Iterable[Clause]:
    if thing.name in BINDABLE and relation != SAME:
        yield Clause("colour", (thing.name,), thing.colour or "own")
    if thing.size is not None:
        yield Clause("size", (thing.name,), thing.size)


def number_law(p: Tensor, most: int = _MOST) -> Tensor:
    r"""The law of the number of successes of independent coins, up to `most`.

    Coefficients of $\prod_i (1 - p_i + p_i t)$, multiplied pairwise.

    Arguments:
        p: Probabilities, (..., m) with m a power of two.
        most: Largest number.

    Returns:
        (..., most + 1); what is missing to 1 is the probability of more.

    >>> number_law(torch.tensor([0.5, 0.5]), 2)
    tensor([0.2500, 0.5000, 0.2500])
    """
    law = torch.stack([1 - p, p], -1)
    while law.shape[-2] > 1:
        law = _convolved(law[..., 0::2, :], law[..., 1::2, :], most)
    return torch.nn.functional.pad(law[..., 0, :], (0, most + 1 - law.shape[-1]))


def _convolved(first: Tensor, second: Tensor, most: int) -> Tensor:
    """Laws of the sums of two independent numbers, cut after `most`."""
    size = min(2 * first.shape[-1] - 1, most + 1)
    terms = []
    for k in range(size):
        low, high = max(0, k - second.shape[-1] + 1), min(k, first.shape[-1] - 1)
        pairs = first[..., low : high + 1] * second[..., k - high : k - low + 1].flip(-1)
        terms.append(pairs.sum(-1))
    return torch.stack(terms, -1)


@cache
def _sided(relation: str) -> Tensor:
    """How true it is that cell i lies on that side of cell j, (64, 64) in (0, 1)."""
    x, y = _cells()
    across, down = x[:, None] - x, y[:, None] - y
    along, other = (across, down) if "the" in relation else (down, across)
    sign = -1 if relation in ("to the left of", "above") else 1
    return torch.sigmoid((sign * along - other.abs()) / _SOFT)


@cache
def _amid() -> Tensor:
    """How true it is that cell i lies between cells j and k, (64, 64, 64) in (0, 1).

    They are seen from it in directions more than 120 degrees apart.
    """
    x, y = _cells()
    dx, dy = x - x[:, None], y - y[:, None]
    length = (dx**2 + dy**2).sqrt().clamp(min=0.5)
    ux, uy = dx / length, dy / length
    cosine = ux[:, :, None] * ux[:, None] + uy[:, :, None] * uy[:, None]
    return torch.sigmoid((-0.5 - cosine) / 0.1)


def _cells() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    return x.flatten().float(), y.flatten().float()


def _colour(answers: Answers, name: str) -> Tensor:
    """Probability of each tint of an object, its own named where it has a name, (n, tints)."""
    found = (answers.tints * answers.place(name)[:, None]).sum(2)
    if name not in OWN:
        return found
    own = torch.zeros(len(TINTS)).index_fill_(0, torch.tensor(TINTS.index(OWN[name])), 1.0)
    return torch.cat([torch.zeros_like(found[:, :1]), found[:, 1:]], 1) + found[:, :1] * own.to(
        found
    )


def _probability(answers: Answers, clause: Clause) -> Tensor:
    kind, names = clause.kind, clause.names
    if kind == "background":
        return answers.grounds[:, list(BACKGROUNDS).index(clause.value)]
    if kind == "count":
        return number_law(answers.of(names[0]))[:, int(clause.value)]
    if kind == "nothing else":
        free = answers.classes[:, 0] + sum(answers.of(name) for name in names)
        return torch.as_tensor(free).clamp(_TINY, 1).log().sum(1).exp()
    if kind == "colour":
        wanted = OWN.get(names[0], "own") if clause.value == "own" else clause.value
        return _colour(answers, names[0])[:, TINTS.index(wanted)]
    if kind == "size":
        big = (answers.big * answers.place(names[0])).sum(1)
        return big if clause.value == SIZES[1] else 1 - big
    places = [answers.place(name) for name in names]
    if kind == "side":
        return torch.einsum("ni,nj,ij->n", *places, _sided(clause.value).to(places[0]))
    if kind == "between":
        first, second, third = places
        pairs = torch.einsum("nj,nk->njk", second, third).flatten(1)
        return ((pairs @ _amid().to(pairs).flatten(1).T) * first).sum(1)
    return (_colour(answers, names[0])[:, 1:] * _colour(answers, names[1])[:, 1:]).sum(1)


def probabilities(answers: Answers, scene: Scene) -> Tensor:
    """Probability of every clause of a scene's caption, (n, clauses), in [0, 1]."""
    return torch.stack([_probability(answers, clause) for clause in clauses(scene)], 1)

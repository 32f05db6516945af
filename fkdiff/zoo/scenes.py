"""Scenes and their captions: what the bundled models are trained on and tested with.

Some pairs of objects and some colourings never occur in training, by a fixed rule, so that
composition can be tested: `held_out_pair`, `held_out_binding`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fkdiff.zoo.held_out import held_out_binding, held_out_pair
from fkdiff.zoo.render import Sprite, render
from fkdiff.zoo.words import (
    BACKGROUNDS,
    BETWEEN,
    BINDABLE,
    COLOURS,
    NUMBERS,
    OBJECTS,
    RELATIONS,
    SAME,
    SIZES,
    known_words,
    plural,
    unknown_words,
    with_article,
)

__all__ = [
    "KINDS",
    "NEVER_HELD_OUT",
    "Scene",
    "Sprite",
    "Thing",
    "caption",
    "held_out_binding",
    "held_out_pair",
    "is_held_out",
    "known_words",
    "render",
    "sample_scene",
    "unknown_words",
]

Split = Literal["train", "held_out", "all"]

# Share of each kind in training: what a word looks like is learnt from scenes of one and two.
KINDS: dict[str, float] = {
    "background": 0.02,
    "single": 0.12,
    "pair": 0.15,
    "three": 0.08,
    "four": 0.08,
    "relation": 0.12,
    "count": 0.09,
    "binding": 0.10,
    "five": 0.04,
    "six": 0.04,
    "between": 0.04,
    "same": 0.03,
    "size": 0.05,
    "mixed": 0.04,
}
NEVER_HELD_OUT = ("background", "single", "count")
"""Kinds of one thing in its own colours, of which training shows everything."""
_OBJECTS_OF = {"background": 0, "single": 1, "pair": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@dataclass(frozen=True)
class Thing:
    """One object, in its own colours or recoloured, of any size or a stated one."""

    name: str
    colour: str | None = None
    size: str | None = None

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.name) if word)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: `count` copies of the first thing, one of each other."""

    kind: str
    things: tuple[Thing, ...]
    background: str
    relation: str | None = None
    count: int = 1

    @property
    def shown(self) -> tuple[Thing, ...]:
        """Every object, copies included."""
        return self.things[:1] * self.count + self.things[1:]

    @property
    def caption(self) -> str:
        """The English caption."""
        return caption(self)


def caption(scene: Scene) -> str:
    """The caption of a scene.

    >>> caption(Scene("count", (Thing("bus"),), "green", count=3))
    'three buses on a green background'
    >>> caption(Scene("relation", (Thing("cat"), Thing("owl")), "red", "above"))
    'a cat above an owl on a red background'
    >>> caption(Scene("mixed", (Thing("cat"), Thing("dog")), "red", count=2))
    'two cats and a dog on a red background'
    >>> caption(Scene("same", (Thing("key"), Thing("car")), "red", "of the same colour"))
    'a key and a car of the same colour on a red background'
    """
    ground = f"{with_article(scene.background)} background"
    if not scene.things:
        return ground
    names = [with_article(str(thing)) for thing in scene.things]
    if scene.count > 1:
        names[0] = f"{NUMBERS[scene.count]} {plural(scene.things[0].name)}"
    if scene.relation == SAME:
        subject = f"{_listed(names)} {SAME}"
    elif scene.relation is not None:
        subject = f"{names[0]} {scene.relation} {_listed(names[1:])}"
    else:
        subject = _listed(names)
    return f"{subject} on {ground}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def is_held_out(scene: Scene) -> bool:
    """Whether a scene contains a pair or a colouring that training never shows.

    >>> is_held_out(Scene("single", (Thing("cat"),), "blue"))
    False
    """
    names = [thing.name for thing in scene.things]
    pairs = ((a, b) for i, a in enumerate(names) for b in names[:i])
    return any(map(held_out_binding, scene.things)) or any(held_out_pair(*p) for p in pairs)


def _things(rng: np.random.Generator, n: int) -> tuple[Thing, ...]:
    return tuple(Thing(str(name)) for name in rng.choice(list(OBJECTS), n, replace=False))


def _coloured(rng: np.random.Generator, background: str) -> tuple[Thing, ...]:
    # An object of the background's colour would be hard to see.
    colours = [colour for colour in COLOURS if colour != background]
    n = 1 if rng.random() < 0.3 else 2
    names = rng.choice(BINDABLE, n, replace=False)
    return tuple(
        Thing(str(name), str(colour))
        for name, colour in zip(names, rng.choice(colours, n, replace=False), strict=True)
    )


def _sized(rng: np.random.Generator) -> tuple[Thing, ...]:
    """One object of a stated size, or one of each."""
    things = _things(rng, 1 if rng.random() < 0.3 else 2)
    sizes = rng.permutation(SIZES)
    return tuple(
        Thing(thing.name, size=str(size)) for thing, size in zip(things, sizes, strict=False)
    )


def _same(rng: np.random.Generator, background: str) -> Scene:
    """Two objects of one colour, which one isn't said."""
    names = [str(name) for name in rng.choice(BINDABLE, 2, replace=False)]
    return Scene("same", tuple(map(Thing, names)), background, SAME)


def _draw(rng: np.random.Generator, kind: str) -> Scene:
    background = str(rng.choice(list(BACKGROUNDS)))
    if kind == "between":
        return Scene(kind, _things(rng, 3), background, BETWEEN)
    if kind == "same":
        return _same(rng, background)
    if kind == "size":
        return Scene(kind, _sized(rng), background)
    if kind == "mixed":
        return Scene(kind, _things(rng, 2), background, count=int(rng.integers(2, 4)))
    if kind == "binding":
        return Scene(kind, _coloured(rng, background), background)
    if kind == "count":
        return Scene(kind, _things(rng, 1), background, count=int(rng.choice(list(NUMBERS))))
    if kind == "relation":
        return Scene(kind, _things(rng, 2), background, str(rng.choice(RELATIONS)))
    return Scene(kind, _things(rng, _OBJECTS_OF[kind]), background)


def _check(kind: str | None, split: str) -> None:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
    if split not in ("train", "held_out", "all"):
        raise ValueError(f'split must be "train", "held_out" or "all", got {split!r}')
    if split == "held_out" and kind in NEVER_HELD_OUT:
        raise ValueError(
            f"kind must show two objects or a colouring in the held_out split, got {kind!r}; "
            'use split="all"'
        )


def sample_scene(
    rng: np.random.Generator,
    *,
    split: Split = "train",
    kind: str | None = None,
    mix: Mapping[str, float] = KINDS,
) -> Scene:
    """A random scene.

    Arguments:
        rng: Source of randomness.
        split: "train" leaves out the held-out pairs and colourings, "held_out" shows at least
            one of them, "all" doesn't mind.
        kind: One of `KINDS`; drawn from the mix by default.
        mix: Share of each kind.

    >>> sample_scene(np.random.default_rng(0), kind="single").kind
    'single'
    """
    _check(kind, split)
    shares = np.array(list(mix.values())) / sum(mix.values())
    while True:
        scene = _draw(rng, kind or str(rng.choice(list(mix), p=shares)))
        if split == "all" or is_held_out(scene) == (split == "held_out"):
            return scene

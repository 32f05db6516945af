"""Captions wrong about a scene in one thing: object, background, colour, side or number."""

from dataclasses import replace

import numpy as np

from fkdiff.zoo.scenes import Scene, Thing, caption
from fkdiff.zoo.words import (
    BACKGROUNDS,
    BETWEEN,
    COLOURS,
    NUMBERS,
    OBJECTS,
    RELATIONS,
    SIZES,
)

__all__ = ["hard_negatives", "wrong_captions"]

# What a caption of some kinds alone can be wrong about.
_SPECIAL = ("side", "count", "binding", "colour", "middle", "size", "swap")
_OPPOSITE = dict(zip(RELATIONS, (*RELATIONS[1::-1], *RELATIONS[:1:-1]), strict=True))


def _other(rng: np.random.Generator, options: list[str], taken: set[str]) -> str:
    free = [option for option in options if option not in taken]
    return free[int(rng.integers(len(free)))]


def _swap(scene: Scene, index: int, thing: Thing) -> Scene:
    things = (*scene.things[:index], thing, *scene.things[index + 1 :])
    return replace(scene, things=things)


def _objects(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """One object exchanged for another, and one left out."""
    if not scene.things:
        return {"object": replace(scene, things=(Thing(str(rng.choice(list(OBJECTS)))),))}
    index = int(rng.integers(len(scene.things)))
    names = {thing.name for thing in scene.things}
    sized = any(thing.size for thing in scene.things)
    thing = scene.things[index]
    wrong = {"object": _swap(scene, index, replace(thing, name=_other(rng, list(OBJECTS), names)))}
    if len(scene.things) < 6 and not sized and scene.relation is None and scene.count == 1:
        extra = Thing(_other(rng, list(OBJECTS), names))
        wrong["more"] = replace(scene, things=(*scene.things, extra))
    if len(scene.things) > 1 and scene.relation is None and scene.count == 1:
        wrong["less"] = replace(scene, things=scene.things[:index] + scene.things[index + 1 :])
    return wrong


def _colours(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Colours exchanged between two objects, and one colour changed."""
    coloured = [i for i, thing in enumerate(scene.things) if thing.colour is not None]
    if not coloured:
        return {}
    index = coloured[int(rng.integers(len(coloured)))]
    taken = {str(thing.colour) for thing in scene.things} | {scene.background}
    new = replace(scene.things[index], colour=_other(rng, list(COLOURS), taken))
    wrong = {"colour": _swap(scene, index, new)}
    if len(scene.things) == 2 and len(coloured) == 2:
        first, second = scene.things
        pair = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        wrong["binding"] = replace(scene, things=pair)
    return wrong


def _sizes(scene: Scene) -> dict[str, Scene]:
    """Every size turned over."""
    if not any(thing.size for thing in scene.things):
        return {}
    turned = dict(zip(SIZES, SIZES[::-1], strict=True))
    things = tuple(replace(t, size=turned[t.size] if t.size else None) for t in scene.things)
    return {"size": replace(scene, things=things)}


def _order(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Another side, another object in the middle."""
    if scene.relation == BETWEEN:
        first, second, third = scene.things
        return {"middle": replace(scene, things=(second, first, third))}
    if scene.relation not in _OPPOSITE:
        return {}
    other = {scene.relation, _OPPOSITE[scene.relation]}
    return {
        "side": replace(scene, relation=_OPPOSITE[scene.relation]),
        "axis": replace(scene, relation=_other(rng, list(RELATIONS), other)),
    }


def wrong_captions(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """One wrong caption for each thing that a caption of this kind can be wrong about.

    >>> from fkdiff.zoo.scenes import Scene, Thing
    >>> scene = Scene("count", (Thing("cat"),), "red", count=2)
    >>> sorted(wrong_captions(scene, np.random.default_rng(0)))
    ['background', 'count', 'object']
    """
    ground = _other(rng, list(BACKGROUNDS), {scene.background})
    wrong = {"background": replace(scene, background=ground)}
    wrong |= _objects(scene, rng) | _colours(scene, rng)
    wrong |= _order(scene, rng) | _sizes(scene)
    if scene.count > 1:
        numbers = [n for n in NUMBERS if n != scene.count]
        wrong["count"] = replace(scene, count=numbers[int(rng.integers(len(numbers)))])
    if scene.count > 1 and len(scene.things) > 1:
        wrong["swap"] = replace(scene, things=scene.things[::-1])
    return {what: caption(scene) for what, scene in wrong.items()}


def hard_negatives(scene: Scene, rng: np.random.Generator, n: int) -> list[str]:
    """Wrong captions for training, `n` of them, what is special about the kind first.

    >>> hard_negatives(Scene("relation", (Thing("cat"), Thing("owl")), "red", "above"),
    ...                np.random.default_rng(0), 1)
    ['a cat below an owl on a red background']
    """
    wrong = wrong_captions(scene, rng)
    special = [wrong.pop(what) for what in _SPECIAL if what in wrong]
    rest = list(wrong.values())
    ordered = [*special, *(rest[int(i)] for i in rng.permutation(len(rest)))]
    while len(ordered) < n:
        ordered.extend(wrong_captions(scene, rng).values())
    return ordered[:n]

"""Reads a caption back into the scene it describes."""

import re

from fkdiff.zoo.scenes import Scene, Thing
from fkdiff.zoo.words import COLOURS, NUMBERS, OBJECTS, RELATIONS, plural

__all__ = ["parse"]

_PLURALS = {plural(noun): noun for noun in OBJECTS}
_COUNTS = {word: number for number, word in NUMBERS.items()}
_KINDS = {1: "single", 2: "pair", 3: "three", 4: "four"}


def _thing(phrase: str, text: str) -> Thing:
    words = phrase.split()[1:]
    if not words or words[-1] not in OBJECTS or (len(words) == 2 and words[0] not in COLOURS):
        raise ValueError(f"caption must be one that scenes have, got {text!r}; see fkdiff.zoo")
    return Thing(words[-1], words[0] if len(words) == 2 else None)


def _counted(subject: str) -> tuple[Thing, int] | None:
    number, _, noun = subject.partition(" ")
    return (Thing(_PLURALS[noun]), _COUNTS[number]) if number in _COUNTS else None


def parse(text: str) -> Scene:
    """The scene of a caption.

    >>> parse("three buses on a green background").count
    3
    >>> parse("a blue apple and a red car on a white background").things[0].colour
    'blue'
    """
    subject, _, ground = text.rpartition(" on ")
    background = ground.split()[1] if subject else text.split()[1]
    if not subject:
        return Scene("background", (), background)
    if counted := _counted(subject):
        return Scene("count", (counted[0],), background, count=counted[1])
    for relation in RELATIONS:
        if f" {relation} " in subject:
            first, second = subject.split(f" {relation} ")
            pair = (_thing(first, text), _thing(second, text))
            return Scene("relation", pair, background, relation)
    things = tuple(_thing(part, text) for part in re.split(r", | and ", subject))
    kind = "binding" if any(thing.colour for thing in things) else _KINDS[len(things)]
    return Scene(kind, things, background)

"""Reads a caption back into the scene it describes."""

import re

from fkdiff.zoo.scenes import Scene, Thing
from fkdiff.zoo.words import (
    BETWEEN,
    COLOURS,
    NUMBERS,
    OBJECTS,
    RELATIONS,
    SAME,
    SIZES,
    plural,
)

__all__ = ["parse"]

_PLURALS = {plural(noun): noun for noun in OBJECTS}
_COUNTS = {word: number for number, word in NUMBERS.items()}
_KINDS = {1: "single", 2: "pair", 3: "three", 4: "four", 5: "five", 6: "six"}
_PHRASE = re.compile(
    rf"(?:an?|the)(?: (?P<size>{'|'.join(SIZES)}))?(?: (?P<colour>{'|'.join(COLOURS)}))?"
    rf" (?P<name>{'|'.join(OBJECTS)})"
)


def _refused(text: str) -> ValueError:
    return ValueError(f"caption must be one that scenes have, got {text!r}; see fkdiff.zoo")


def _things(phrases: str, text: str) -> tuple[Thing, ...]:
    """The objects of a list such as "a cat, a big owl and a red key"."""
    found = [_PHRASE.fullmatch(phrase) for phrase in re.split(r", | and ", phrases)]
    things = [Thing(f["name"], f["colour"], f["size"]) for f in found if f is not None]
    if len(things) < len(found):
        raise _refused(text)
    return tuple(things)


def _counted(subject: str, text: str) -> tuple[tuple[Thing, ...], int] | None:
    """Copies of a thing, perhaps with one other: the things, and how many copies."""
    head, _, rest = subject.partition(" and ")
    number, _, noun = head.partition(" ")
    if number not in _COUNTS:
        return None
    if noun not in _PLURALS:
        raise _refused(text)
    return (Thing(_PLURALS[noun]), *(_things(rest, text) if rest else ())), _COUNTS[number]


def _related(subject: str, text: str) -> tuple[str, tuple[Thing, ...], str] | None:
    """Kind, things and relation of a subject that states one."""
    if subject.endswith(f" {SAME}"):
        return "same", _things(subject.removesuffix(f" {SAME}"), text), SAME
    for relation in (*RELATIONS, BETWEEN):
        first, found, others = subject.partition(f" {relation} ")
        if found:
            kind = "between" if relation == BETWEEN else "relation"
            return kind, _things(first, text) + _things(others, text), relation
    return None


def _kind(things: tuple[Thing, ...], text: str) -> str:
    if any(thing.size for thing in things):
        return "size"
    if any(thing.colour for thing in things):
        return "binding"
    if len(things) not in _KINDS:
        raise _refused(text)
    return _KINDS[len(things)]


def parse(text: str) -> Scene:
    """The scene of a caption.

    Arguments:
        text: A caption as `scenes.caption` writes them.

    Raises:
        ValueError: It is no such caption.

    >>> parse("three buses on a green background").count
    3
    >>> parse("a blue apple and a red car on a white background").things[0].colour
    'blue'
    >>> parse("a cat between a dog and an owl on a red background").relation
    'between'
    """
    subject, _, ground = text.rpartition(" on ")
    words = (ground if subject else text).split()
    if len(words) != 3 or words[2] != "background":
        raise _refused(text)
    background = words[1]
    if not subject:
        return Scene("background", (), background)
    if counted := _counted(subject, text):
        things, count = counted
        return Scene("mixed" if len(things) > 1 else "count", things, background, count=count)
    if related := _related(subject, text):
        kind, things, relation = related
        return Scene(kind, things, background, relation)
    things = _things(subject, text)
    return Scene(_kind(things, text), things, background)

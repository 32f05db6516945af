"""Which pairs of objects and which colourings training never shows, by a fixed rule."""

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fkdiff.zoo.scenes import Thing

__all__ = ["held_out_binding", "held_out_pair"]


def _one_in(key: str, n: int) -> bool:
    # zlib.crc32 rather than hash(): the rule must not change from process to process.
    return zlib.crc32(key.encode()) % n == 0


def held_out_pair(first: str, second: str) -> bool:
    """Whether two objects never share a training scene (one pair in ten, order ignored)."""
    return _one_in("pair " + " ".join(sorted((first, second))), 10)


def held_out_binding(thing: "Thing") -> bool:
    """Whether this colouring of this object never occurs in training (one in six)."""
    return thing.colour is not None and _one_in(f"binding {thing.colour} {thing.name}", 6)

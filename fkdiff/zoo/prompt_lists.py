"""The shipped prompt lists, drawn from a seed so that they can be rebuilt and compared."""

from pathlib import Path

import numpy as np

from fkdiff.zoo.scenes import Scene, sample_scene

__all__ = ["draw_lists", "write_lists"]

# Kinds of the 150 prompts; the easy ones few, since steering has nothing to repair there.
_EACH = {
    "background": 3,
    "single": 11,
    "pair": 26,
    "three": 24,
    "four": 14,
    "relation": 26,
    "count": 22,
    "binding": 24,
}
_DEMO = {"pair": 4, "three": 4, "relation": 4, "count": 4, "binding": 4}
_COMPOSED = ("pair", "three", "four", "relation", "binding")


def _draw(rng: np.random.Generator, kind: str, index: int) -> Scene:
    # A third of the kinds that can be new shows a pair or a colouring never seen in training.
    new = kind in _COMPOSED and index % 3 == 2
    return sample_scene(rng, kind=kind, split="held_out" if new else "train")


def _list(
    rng: np.random.Generator, each: dict[str, int], taken: set[str], most: int = 5
) -> list[str]:
    """Captions of each kind, none of them taken; counts at most `most`."""
    found: list[str] = []
    for kind, n in each.items():
        wanted = len(found) + n
        while len(found) < wanted:
            scene = _draw(rng, kind, len(found))
            if scene.caption not in taken and scene.count <= most:
                taken.add(scene.caption)
                found.append(scene.caption)
    return found


def draw_lists(seed: int = 2024) -> dict[str, list[str]]:
    """The lists "demo", "tune" and "eval", disjoint.

    >>> {name: len(lines) for name, lines in draw_lists().items()}
    {'demo': 20, 'tune': 150, 'eval': 150}
    """
    rng = np.random.default_rng(seed)
    taken: set[str] = set()
    return {
        "demo": _list(rng, _DEMO, taken, most=3),
        "tune": _list(rng, _EACH, taken),
        "eval": _list(rng, _EACH, taken),
    }


def write_lists(folder: Path) -> None:
    """Writes one file per list, one prompt a line."""
    for name, lines in draw_lists().items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

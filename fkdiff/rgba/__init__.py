"""Transparent pictures: where the subject is, its alpha, and its own colour at soft edges.

Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.rgba.colour import foreground_colour
    from fkdiff.rgba.cutout import Cutout, attention_flow, attention_prior
    from fkdiff.rgba.mattes import Thresholds, alpha, cut_out
    from fkdiff.rgba.pasting import checkerboard, over, paste
    from fkdiff.terms.regions import Mask

__all__ = [
    "Cutout",
    "Mask",
    "Thresholds",
    "alpha",
    "attention_flow",
    "attention_prior",
    "checkerboard",
    "cut_out",
    "foreground_colour",
    "over",
    "paste",
]

_NAMES = {
    "fkdiff.rgba.colour": "foreground_colour",
    "fkdiff.rgba.cutout": "Cutout attention_flow attention_prior",
    "fkdiff.rgba.mattes": "Thresholds alpha cut_out",
    "fkdiff.rgba.pasting": "checkerboard over paste",
    "fkdiff.terms.regions": "Mask",
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names.split():
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'fkdiff.rgba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

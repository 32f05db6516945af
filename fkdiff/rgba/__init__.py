"""Transparent pictures: where the subject is, its alpha, and its own colour at soft edges.

Names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.rgba.colour import foreground_colour
    from fkdiff.rgba.cutout import Cutout
    from fkdiff.rgba.flow import attention_flow, attention_prior
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

_HOMES = {
    "Cutout": "fkdiff.rgba.cutout",
    "Mask": "fkdiff.terms.regions",
    "Thresholds": "fkdiff.rgba.mattes",
    "alpha": "fkdiff.rgba.mattes",
    "attention_flow": "fkdiff.rgba.flow",
    "attention_prior": "fkdiff.rgba.flow",
    "checkerboard": "fkdiff.rgba.pasting",
    "cut_out": "fkdiff.rgba.mattes",
    "foreground_colour": "fkdiff.rgba.colour",
    "over": "fkdiff.rgba.pasting",
    "paste": "fkdiff.rgba.pasting",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fkdiff.rgba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

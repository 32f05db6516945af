"""Reward plug-ins: `from fkdiff.rewards import OpenCLIP`.

Names are loaded when they are first used, so that listing rewards imports neither torch nor a
model library. To publish a reward of your own, declare an entry point in the group
`fkdiff.rewards`.
"""

if __name__ != "fkdiff.rewards":  # a second copy of every class would break isinstance
    raise ImportError("use `import fkdiff.rewards`, not `import rewards`")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.rewards.pixels import Brightness, Colourfulness, JPEGSize
    from fkdiff.rewards.text_image import OpenCLIP

__all__ = ["Brightness", "Colourfulness", "JPEGSize", "OpenCLIP"]

_HOMES = {
    "Brightness": "fkdiff.rewards.pixels",
    "Colourfulness": "fkdiff.rewards.pixels",
    "JPEGSize": "fkdiff.rewards.pixels",
    "OpenCLIP": "fkdiff.rewards.text_image",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fkdiff.rewards' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

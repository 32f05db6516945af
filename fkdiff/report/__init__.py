"""What a run leaves on disk: pictures that carry their settings, numbers, and one readable page.

Names are loaded when they are first used: reading a picture's settings imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.report.folder import check_folder
    from fkdiff.report.png import read_png
    from fkdiff.report.run import save

__all__ = ["check_folder", "read_png", "save"]

_HOMES = {
    "check_folder": "fkdiff.report.folder",
    "read_png": "fkdiff.report.png",
    "save": "fkdiff.report.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fkdiff.report' has no attribute {name!r}")

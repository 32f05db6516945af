"""Benches that take long keep what they have: a cut run goes on where it stopped."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fkdiff._version import __version__

__all__ = ["Kept", "one_thread"]

FOLDER = Path("runs/bench")


class Kept:
    """Parts of a bench's results in one file below `runs/bench`, by name.

    A file of other settings or of another version is not taken up. Delete it to start anew.

    Arguments:
        name: Name of the file.
        settings: What the parts depend on.
        keep: False to keep nothing, for quick runs.
    """

    def __init__(self, name: str, settings: dict[str, Any], keep: bool) -> None:
        self.file = FOLDER / f"{name}.json" if keep else None
        self.settings = json.loads(json.dumps({**settings, "fkdiff": __version__}))
        self.parts: dict[str, Any] = {}
        if self.file is not None and self.file.is_file():
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            if stored["settings"] == self.settings:
                self.parts = stored["parts"]

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """A part, made and written only if it isn't there."""
        if name not in self.parts:
            self.parts[name] = make()
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps({"settings": self.settings, "parts": self.parts}, indent=1)
                partial = self.file.with_suffix(".part")
                partial.write_text(text, encoding="utf-8")
                partial.replace(self.file)
        return self.parts[name]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for networks so small that several would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

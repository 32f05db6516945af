"""The file of `--resume`: finished parts of a bench, from which a stopped run goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fkdiff.bench import BenchRefused

__all__ = ["Kept"]


class Kept:
    """Parts of a bench's results by name, one a line of a file below the settings.

    A line that was cut off is made again.

    Arguments:
        file: The file; None to keep nothing.
        settings: What the parts depend on, models included (`zoo.digest`).

    Raises:
        BenchRefused: If the file holds parts of other settings.
    """

    def __init__(self, file: Path | None, settings: dict[str, Any]) -> None:
        self.file = file
        head = json.loads(json.dumps(settings))
        lines = self._lines() or [head]
        if lines[0] != head:
            keys = sorted(head.keys() | lines[0].keys())
            changed = [key for key in keys if lines[0].get(key) != head.get(key)]
            raise BenchRefused(
                f"resume must name a file of these settings, got others ({', '.join(changed)}) in "
                f"{self.file}; name another file"
            )
        self.parts: dict[str, Any] = {line["name"]: line["part"] for line in lines[1:]}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _lines(self) -> list[dict[str, Any]]:
        if self.file is None or not self.file.is_file():
            return []
        # What follows the last newline was cut off.
        *whole, rest = self.file.read_text(encoding="utf-8", errors="replace").split("\n")
        try:
            found: list[Any] = [json.loads(line) for line in whole]
        except (ValueError, RecursionError):
            found = [None]
        if not all(isinstance(line, dict) for line in found) or (not found and rest):
            raise BenchRefused(
                f"resume must name a file of a bench's parts, and {self.file} isn't one; name "
                f"another file"
            )
        return found

    def part(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of that name; unless it is there it is made and written down."""
        if name not in self.parts:
            self.parts[name] = made = make()
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, "part": made}) + "\n")
        return self.parts[name]

"""Folders of a file of prompts: each line is known by what it asks for, wherever it stands."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from fkdiff.commands.request import Request, command_of
from fkdiff.commands.resuming import unfinished
from fkdiff.commands.stops import refused
from fkdiff.files import json_of
from fkdiff.folders import pictures_of
from fkdiff.report.folder import write_json

__all__ = ["finish_line", "is_done", "line_folders", "result_of"]

_LINE = "line.json"


def line_folders(out: Path, requests: Sequence[Request], names: Sequence[str]) -> list[Path]:
    """The folder of each line: the one that it has, also where lines were put before it.

    Arguments:
        out: Folder of the runs.
        requests: The lines, in the file's order.
        names: What the folder of a line is called that has none yet.

    Raises:
        Stop: With code 2, if the folder that a new line would get was drawn by a line that is no
            longer in the file.
    """
    there = _there(out)
    found: list[Path | None] = []
    for request in requests:
        folders = there.get(command_of(request), [])
        found.append(folders.pop(0) if folders else None)
    taken = {folder for folder in found if folder is not None}
    begun = [file.parent for file in sorted(out.glob("[0-9]*/snapshot.safetensors"))]
    placed = []
    for folder, request, name in zip(found, requests, names, strict=True):
        placed.append(folder or _place(request, out / name, begun, taken))
        taken.add(placed[-1])
    return placed


def is_done(folder: Path) -> bool:
    """Whether a line is drawn, and what it drew can be read."""
    return _command_in(folder) is not None and result_of(folder) is not None


def finish_line(folder: Path, request: Request) -> None:
    """Note that a line is drawn, and by which options."""
    about = {"command": command_of(request), "pictures": pictures_of(folder)}
    write_json(folder / _LINE, about)


def result_of(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's `result.json`; None if it is missing or damaged."""
    about = _read(folder / "result.json")
    try:
        dict(about["particles"][0]["rewards"])
        return about if isinstance(about["samples"], str) else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _there(out: Path) -> dict[str, list[Path]]:
    """Folders of lines that are drawn, by their commands."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in sorted(out.glob("[0-9]*")):
        command = _command_in(folder)
        if command is not None:
            found[command].append(folder)
    return found


def _place(request: Request, first: Path, begun: Sequence[Path], taken: set[Path]) -> Path:
    """The folder in which a line was begun, or a free one."""
    for folder in begun:
        if folder not in taken and unfinished(request, folder):
            return folder
    names = (first if n == 1 else first.with_name(f"{first.name}-{n}") for n in count(1))
    folder = next(name for name in names if name not in taken)
    command = _command_in(folder)
    if command is not None:
        raise refused(
            f"--out: {folder} was drawn by another command ({command}); choose another folder"
        )
    return folder


def _command_in(folder: Path) -> str | None:
    command = _read(folder / _LINE).get("command")
    return command if isinstance(command, str) else None


def _read(path: Path) -> dict[str, Any]:
    """An object from a JSON file; a missing or damaged one is empty."""
    try:
        found = json_of(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

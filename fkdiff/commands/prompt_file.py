"""`--prompts FILE`: one request a line, from text, CSV or JSON lines."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fkdiff.commands.request import Request, checked
from fkdiff.commands.stops import Stop, refused

__all__ = ["SETTINGS", "read_prompts"]

SETTINGS: dict[str, type] = {
    "steps": int,
    "guidance": float,
    "negative_prompt": str,
    "height": int,
    "width": int,
    "particles": int,
    "reward": str,
    "scale": float,
    "potential": str,
    "seed": int,
    "micro_batch": int,
    "select": str,
    "images": int,
}
"""What a line may set for itself; everything else is the same for the whole file."""


def read_prompts(file: Path, common: Request) -> list[Request]:
    """The checked request of each line.

    Arguments:
        file: `.txt`, a prompt a line; `.csv` with a column "prompt" and columns of `SETTINGS`, an
            empty cell for what is common; `.jsonl`, an object a line with the same names.
        common: What lines leave out; its prompts are not used.

    Raises:
        Stop: With code 2 and the line, if one can't be met.
    """
    readers = {".txt": _text, ".csv": _csv, ".jsonl": _json}
    if file.suffix not in readers:
        raise refused(f"--prompts must be a .txt, .csv or .jsonl file, got {file}")
    try:
        found = list(readers[file.suffix](file.read_text(encoding="utf-8")))
    except OSError as error:
        raise refused(f"--prompts {file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise refused(f"--prompts {file} must be UTF-8 text: {error.reason}") from None
    if not found:
        raise refused(f"--prompts {file} holds no prompt; write one a line")
    return [_request(f"{file}, line {line}", row, common) for line, row in found]


def _text(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(text.splitlines())
    for row in rows:
        if None in row:
            raise refused(f"--prompts: line {rows.line_num} has more cells than the header")
        yield rows.line_num, {name: cell for name, cell in row.items() if cell}


def _json(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise refused(
                f"--prompts: line {number} must be a JSON object: {error.msg} at column "
                f"{error.colno}"
            ) from None
        if not isinstance(row, dict):
            raise refused(f"--prompts: line {number} must be a JSON object, got {line.strip()!r}")
        yield number, row


def _request(where: str, row: dict[str, Any], common: Request) -> Request:
    row = dict(row)
    if not isinstance(row.get("prompt"), str):
        raise refused(
            f'--prompts: {where} must have a "prompt", got {", ".join(row) or "nothing"}'
        )
    prompt, changes = row.pop("prompt"), {}
    for name, value in row.items():
        if name not in SETTINGS:
            known = ", ".join(SETTINGS)
            raise refused(f"{where} can't set {name!r}; a line may set {known}")
        changes[name] = _value(where, name, value)
    try:
        return checked(replace(common, prompts=(prompt,), out=None, **changes))
    except Stop as stop:
        raise refused(f"{where}: {stop}") from None


def _value(where: str, name: str, value: Any) -> Any:
    kind = SETTINGS[name]
    right = isinstance(value, str) or (
        isinstance(value, int | float) and not isinstance(value, bool) and kind is not str
    )
    try:
        found = kind(value) if right else None
    except ValueError:
        found = None
    if found is None or (kind is int and float(value) != found):
        raise refused(f"{where}: {name} must be {_ARTICLE[kind]}, got {value!r}")
    return found


_ARTICLE = {int: "a whole number", float: "a number", str: "text"}

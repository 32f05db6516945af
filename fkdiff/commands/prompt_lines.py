"""Rows of a file of prompts: its text as objects with their line numbers."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fkdiff.commands.stops import refused
from fkdiff.files import lines_of, text_of

__all__ = ["Rows", "read_rows"]

Rows: TypeAlias = Iterator[tuple[int, dict[str, Any]]]
"""Numbers of lines, from 1, and what stands in them by name."""

_MOST = 2**26  # bytes


def read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a `.txt`, `.csv` or `.jsonl` file.

    Lines end at line feeds and carriage returns alone: other characters that Unicode counts as
    line breaks are part of a prompt. A byte-order mark is left out.

    Raises:
        Stop: With code 2 and the line, if the file isn't such a file or can't be read.
    """
    readers = {".txt": _text, ".csv": _csv, ".jsonl": _json}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise refused(f"--prompts must be a .txt, .csv or .jsonl file, got {file}")
    return list(reader(_content(file)))


def _content(file: Path) -> str:
    try:
        return text_of(file, _MOST)
    except OSError as error:
        raise refused(f"--prompts {file} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise refused(f"--prompts {error}") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            yield number, line.strip()


def _text(text: str) -> Rows:
    for number, line in _lines(text):
        yield number, {"prompt": line}


def _csv(text: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] = []
    number = 1
    try:
        for cells in reader:
            if not any(cells):
                pass
            elif not head:
                head = _header(cells)
            elif len(cells) > len(head):
                raise refused(f"--prompts: line {number} has more cells than the header")
            else:
                yield number, {name: cell for name, cell in zip(head, cells, strict=False) if cell}
            number = reader.line_num + 1
    except csv.Error as error:
        told = "a quote in it is never closed" if "unexpected end" in str(error) else str(error)
        raise refused(f"--prompts: line {number} can't be read: {told}") from None


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    _check_once(names, "line 1 names the column")
    return names


def _json(text: str) -> Rows:
    for number, line in _lines(text):
        try:
            row = json.loads(line, object_pairs_hook=partial(_object, number))
        except json.JSONDecodeError as error:
            told = f"{error.msg} at column {error.colno}"
            raise refused(f"--prompts: line {number} must be a JSON object: {told}") from None
        except RecursionError:
            raise refused(f"--prompts: line {number} is nested too deeply") from None
        except ValueError:  # Python's limit
            raise refused(f"--prompts: line {number} holds a number of too many digits") from None
        if not isinstance(row, dict):
            raise refused(f"--prompts: line {number} must be a JSON object, got {line:.60}")
        yield number, row


def _object(number: int, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once((name for name, _ in pairs), f"line {number} names")
    return dict(pairs)


def _check_once(names: Iterable[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise refused(f"--prompts: {where} {twice[0]!r} twice; leave one out")

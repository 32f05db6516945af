"""`fkdiff show`: what a picture says of itself."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff.commands.places import path
from fkdiff.commands.stops import refused

__all__ = ["EXAMPLE", "show"]

EXAMPLE = "Example: fkdiff show runs/demo/images/0000.png"


def show(
    file: Annotated[Path, typer.Argument(help="A PNG picture of a run folder.", parser=path)],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Read the settings inside a picture, and tell how to make it again."""
    from fkdiff.report import read_png

    try:
        about = read_png(file)
    except FileNotFoundError:
        raise refused(f"{file} doesn't exist; name a PNG picture of a run folder") from None
    except OSError as error:
        raise refused(f"{file} can't be read: {error.strerror or error}") from None
    except ValueError as error:
        raise refused(error) from None
    if as_json:
        print(json.dumps(about, indent=2))  # ASCII: a terminal can't be tampered with
    else:
        _tell(about)


def _tell(about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    again = {name: about.pop(name, None) for name in ("command", "python")}
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in about.items():
        if value not in (None, "", [], {}):
            table.add_row(Text(_shown(name), style="dim"), Text(_shown(value)))
    console = Console()
    console.print(table)
    console.print(_again(**again), markup=False, highlight=False, soft_wrap=True)


def _again(command: Any, python: Any) -> str:
    """How to make the picture again, as far as what it says can be offered."""
    from fkdiff.commands.again import own_command, own_python

    own, code = own_command(command), own_python(python)
    if own is not None:
        text, named = own
        where = ", ".join(sorted(named))
        caution = f" (it runs code of this machine, {where}: look at that first)" if named else ""
        return f"\nMake it again{caution}:\n\n{text}\n"
    if not command and code is not None:
        return f"\nThe Python that makes it again:\n\n{code}"
    if command or python:
        return "\nHow it says it was made isn't fkdiff's own writing; --json shows it.\n"
    return "\nIt doesn't say how it was made.\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_clean(str(key))} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else _clean(str(value))


def _clean(text: str) -> str:
    """Text without the control characters by which a stranger's file could steer a terminal.

    >>> _clean("a cat" + chr(27) + "[2J")
    'a cat?[2J'
    """
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)

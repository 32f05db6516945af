"""Paths on the command line, and the folder that a command writes into."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import typer

from fkdiff.commands.launched import speaks
from fkdiff.commands.stops import refused
from fkdiff.files import home_path, json_of
from fkdiff.folders import claimed

__all__ = ["check_file", "held", "is_ours", "path", "steady"]


_LONGEST = 255


def path(text: str) -> Path:
    """A path from a word of the command line: a file or folder, or none yet.

    An empty one, as of an unset variable, is refused, and so is a pipe, which may never end.

    >>> path("runs/cat").as_posix()
    'runs/cat'
    """
    if isinstance(text, Path):  # a default
        return text
    if not text.strip() or "\0" in text:
        raise typer.BadParameter(f"must name a file or folder, got {text!r}")
    found = Path(text)
    if any(len(part.encode(errors="replace")) > _LONGEST for part in found.parts):
        raise typer.BadParameter(
            f"must have names of at most {_LONGEST} bytes, got {text[:40]}..."
        )
    if os.path.exists(found) and not (os.path.isfile(found) or os.path.isdir(found)):
        raise typer.BadParameter(f"must be a file or folder, and {text} is a pipe or device")
    return found


def check_file(option: str, file: Path, ours: bool = False) -> None:
    """Refuse a file that can't be written, and one that is there and isn't fkdiff's.

    Arguments:
        option: How the file is named on the command line.
        file: The file to write.
        ours: Whether fkdiff wrote what may be there.

    Raises:
        Stop: With code 2.
    """
    from fkdiff.report.folder import check_writable

    try:
        folder = check_writable(home_path(file).absolute().parent)
    except OSError as error:
        raise refused(f"{option} {file}: {error}") from None
    if not folder.is_dir():
        raise refused(f"{option} {file}: its folder doesn't exist; create it first")
    place = home_path(file)
    if place.is_dir():
        raise refused(f"{option} {file} is a folder; name a file")
    if os.path.lexists(place) and not ours:
        raise refused(
            f"{option} {file} is there, and fkdiff didn't write it; name another file, or move "
            f"that one first"
        )


def is_ours(file: Path, *keys: str) -> bool:
    """Whether fkdiff wrote a file.

    Arguments:
        file: A PNG, which is fkdiff's if it carries settings, or a JSON file.
        keys: What stands in a JSON file that is fkdiff's.
    """
    from fkdiff.report.png import read_png

    file = home_path(file)
    if file.is_symlink() or not file.is_file():
        return False
    try:
        if file.suffix.lower() == ".png":
            return bool(read_png(file))
        return bool(keys) and {*keys} <= json_of(file.read_bytes()).keys()
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def held(folder: Path | None, option: str = "--out") -> Iterator[None]:
    """Hold a folder for this command, by the first of its processes; another command is refused.

    Raises:
        Stop: With code 2, if another run holds it or it can't be created.
    """
    with contextlib.ExitStack() as stack:
        if folder is not None and speaks():
            try:
                stack.enter_context(claimed(home_path(folder)))
            except OSError as error:
                raise refused(f"{option}: {error}") from None
        yield


def steady() -> contextlib.AbstractContextManager[None]:
    """Come back to the working folder afterwards, wherever a reward's code goes."""
    return contextlib.chdir(os.getcwd())

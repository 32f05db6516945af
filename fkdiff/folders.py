"""Run folders: which are ours to replace, and who writes into one now.

A folder is a run's if it holds a file that only fkdiff writes: `result.json` of a run that has
ended, or the small `.fkdiff` of one that hasn't and of folders without such a result. Every other
folder is the user's own: what is in it is neither replaced nor deleted.
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fkdiff._version import __version__
from fkdiff.files import json_of, write_whole

__all__ = ["MARK", "check_own", "claimed", "is_run", "mark", "pictures_of", "unmark"]

MARK = ".fkdiff"
"""Name of the file that marks a folder as a run's where no result does."""

_KNOWN = {
    "result.json": {"fkdiff", "log_z", "particles"},
    "sweep.json": {"cells", "expert"},
    "evaluation.json": {"fkdiff", "methods"},
    "card.json": {"kind", "sequences", "classes"},
}
"""Results by which a run is known, and what stands in them."""
_LINE = re.compile(r"\d{5}(-[a-z0-9-]+)?|together-\d{5}")
_PICTURE = re.compile(r"\d{4,}\.png")
_STATE = re.compile(r"snapshot[\w.-]*|\.snapshot.*\.part")
_OURS = re.compile(
    r"snapshot\.safetensors|snapshot[\w.-]*\.[0-9a-f]{12}\.trace|\.snapshot.+\.[a-z0-9_]{8}\.part"
)
"""What a run that is killed at its first save leaves, whichever file it was writing."""
_MOST = 2**26  # bytes of a file that is read to recognise a folder

_held: ContextVar[frozenset[Path]] = ContextVar("folders that this thread holds")


def check_own(folder: Path) -> None:
    """Refuse a folder with files that no run of fkdiff wrote.

    Raises:
        OSError: If the folder is neither empty nor a run's, a link in it leads elsewhere, or it
            holds numbered pictures that aren't its run's.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> check_own(folder)
        >>> _ = (folder / "letter.txt").write_text("mine")
        >>> check_own(folder)
        Traceback (most recent call last):
        OSError: ... holds files that are no run of fkdiff (letter.txt), ...
    """
    if not folder.is_dir():
        return
    names = sorted(os.listdir(folder))
    if names and not is_run(folder):
        told = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise OSError(
            f"{folder} holds files that are no run of fkdiff ({told}), and they are left as they "
            f"are; choose another folder"
        )
    images = folder / "images"
    if images.is_symlink():
        raise OSError(f"{images} is a link that leads out of the run; remove it first")
    known = pictures_of(folder)
    own = [path.name for path in images.glob("*.png") if _number(path.name) >= known]
    if own:
        raise OSError(
            f"{images} holds pictures that its run didn't write ({min(own)}); move them first"
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: by its mark, its result, or what an earlier fkdiff left."""
    about = _read(folder / MARK)
    if about is not None:
        return "fkdiff" in about
    for name, keys in _KNOWN.items():
        found = _read(folder / name)
        if found is not None and keys <= found.keys():
            return True
    return _line_of(folder) is not None or _is_unfinished(folder) or _holds_lines(folder)


def mark(folder: Path, pictures: int = 0) -> None:
    """Mark a folder as a run's, before anything else is written into it.

    Arguments:
        folder: Created if need be.
        pictures: Numbered pictures in it that are the run's, from `images/0000.png` on.
    """
    about = {"fkdiff": __version__, "pictures": pictures}
    about["note"] = "A run of fkdiff: a later run may replace its files."
    write_whole(folder / MARK, (json.dumps(about) + "\n").encode())


def pictures_of(folder: Path) -> int:
    """Numbered pictures of a folder that are its run's."""
    about = _read(folder / MARK)
    if about is None:
        rows = (_read(folder / "result.json") or {}).get("particles")
        about = {"pictures": len(rows)} if isinstance(rows, list) else _line_of(folder)
    count = (about or {}).get("pictures")
    return count if type(count) is int and count >= 0 else 0


def unmark(folder: Path) -> None:
    """Remove a folder's mark, once its result says as much."""
    (folder / MARK).unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Hold a folder for one run: created if need be, and removed again if it is empty at the end.

    Arguments:
        folder: The folder; the thread that holds it may claim it again.

    Raises:
        BlockingIOError: If another run holds it.
        OSError: If it can't be created.
    """
    folder = Path(os.path.abspath(folder))
    if folder in _held.get(frozenset()):
        yield folder
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    number = _locked(folder)
    token = _held.set(_held.get(frozenset()) | {folder})
    try:
        yield folder
    finally:
        _held.reset(token)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if number is not None:
            os.close(number)


def _locked(folder: Path) -> int | None:
    """An open folder that is locked until it is closed; None where a system has no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(number)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return None  # some network file systems lock nothing
        raise BlockingIOError(
            f"another run is writing into {folder} now; wait for its end, or choose another folder"
        ) from None
    return number


def _read(path: Path) -> dict[str, Any] | None:
    """An object from a JSON file; None if the file holds none, or is a link."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST:
            return None
        found = json_of(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _line_of(folder: Path) -> dict[str, Any] | None:
    """What is noted in the folder of a line of a file of prompts."""
    about = _read(folder / "line.json") or {}
    return about if str(about.get("command", "")).startswith("fkdiff generate ") else None


def _is_unfinished(folder: Path) -> bool:
    """Whether a folder holds the states of an unfinished run, and nothing else."""
    names = os.listdir(folder)
    if names == ["training"]:
        return (folder / "training" / "state.safetensors").is_file()
    return any(map(_OURS.fullmatch, names)) and all(map(_STATE.fullmatch, names))


def _holds_lines(folder: Path) -> bool:
    """Whether a folder holds the runs of a file of prompts, and nothing else."""
    names = [path.name for path in folder.iterdir() if path.name != "index.html"]
    return bool(names) and all(
        _LINE.fullmatch(name) and not (folder / name).is_symlink() and is_run(folder / name)
        for name in names
    )


def _number(name: str) -> int:
    return int(name.split(".")[0]) if _PICTURE.fullmatch(name) else -1

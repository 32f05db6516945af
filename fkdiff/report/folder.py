"""A run folder: checked before the run, written file by file so that none is ever half there."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from fkdiff.files import home_path, write_whole
from fkdiff.folders import check_own

__all__ = [
    "check_folder",
    "check_writable",
    "clear_pictures",
    "plain_json",
    "write_file",
    "write_json",
]


def check_folder(path: str | Path) -> Path:
    """Make sure that a run may write into a folder, without creating it.

    Raises:
        OSError: If the path is empty or a file, neither it nor a parent can be written to, or it
            holds files that are no run of fkdiff.

    >>> check_folder(Path(tempfile.gettempdir()) / "not" / "there").name
    'there'
    """
    if not str(path):
        raise OSError("the output must be a folder, got an empty path; name one, such as runs/cat")
    folder = check_writable(path)
    check_own(folder)
    return folder


def check_writable(path: str | Path) -> Path:
    """Make sure that files can be written into a folder, without creating it.

    Raises:
        OSError: If the path is a file, or neither it nor a parent can be written to.
    """
    folder = home_path(path)
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        raise NotADirectoryError(f"the output must be a folder, and {nearest} is a file")
    try:
        tempfile.TemporaryFile(dir=nearest).close()  # permission bits alone don't bind root
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"can't write into {nearest}: {reason}; choose another folder") from None
    return folder


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one move: a reader sees the old one or the new one."""
    write_whole(path, data)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented."""
    text = json.dumps(plain_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_file(path, (text + "\n").encode())


def clear_pictures(folder: Path, kept: int, written: int) -> None:
    """Remove the numbered pictures that an earlier, larger run wrote into its folder.

    Arguments:
        folder: The run's.
        kept: Pictures of this run.
        written: Those that fkdiff wrote, as the folder's mark counts them; what is beyond stays.
    """
    for number in range(kept, written):
        (folder / "images" / f"{number:04d}.png").unlink(missing_ok=True)


def plain_json(value: Any) -> Any:
    """The same value in what JSON knows: no NaN or infinity (null), no path of a home folder.

    >>> plain_json({"weights": (0.5, float("nan")), 1: {"kind": Path("a/b")}})
    {'weights': [0.5, None], '1': {'kind': 'a/b'}}
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):  # tensors and arrays
        return plain_json(value.tolist())
    return _without_home(str(value))


def _without_home(text: str) -> str:
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text

"""A run folder: checked before the run, written file by file so that none is ever half there."""

import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from fkdiff.files import write_whole

__all__ = ["check_folder", "clear_pictures", "plain_json", "write_file", "write_json"]


def check_folder(path: str | Path) -> Path:
    """Make sure that a run can write into a folder, without creating it.

    Raises:
        OSError: If the path is a file, or neither it nor a parent can be written to.

    >>> check_folder(Path(tempfile.gettempdir()) / "not" / "there").name
    'there'
    """
    folder = Path(path).expanduser()
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


def clear_pictures(folder: Path, kept: int) -> None:
    """Remove numbered pictures that an earlier, larger run left in its folder."""
    for path in (folder / "images").glob("*.png"):
        if re.fullmatch(r"\d{4,}", path.stem) and int(path.stem) >= kept:
            path.unlink()


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

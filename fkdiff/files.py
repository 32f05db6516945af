"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path

__all__ = ["clear_parts", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one move: a reader sees the old one or the new one, also after a crash.

    Arguments:
        path: The file; its folder is created if need be.
        data: What it holds.

    Raises:
        OSError: If it can't be written, a full disk included; what was there before stays.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder) / "runs" / "a.txt", b"all of it")
        ...     print(sorted(p.name for p in Path(folder).rglob("*.*")))
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # the name must never stand for bytes that aren't there yet
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def clear_parts(folder: Path) -> None:
    """Remove what killed writers left below a folder that nobody else is writing into."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask for new files, which `mkstemp` doesn't heed."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

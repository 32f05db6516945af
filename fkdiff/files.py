"""Files that are there whole or not at all."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "clear_parts",
    "home_path",
    "json_of",
    "lines_of",
    "naming",
    "text_of",
    "with_sorted_metadata",
    "write_whole",
]

_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
_DEEPEST = 64
"""Levels of JSON, far more than fkdiff writes."""


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
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # a name must never stand for bytes that aren't there yet
            part.chmod(0o666 & ~_umask())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error that ends writing the file's name: errors of an open file carry none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def with_sorted_metadata(data: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata in order: equal contents, equal bytes.

    safetensors writes the metadata in the order of a hash table, another one in each file.

    Arguments:
        data: What `safetensors.torch.save` returns.

    Example:
        >>> import torch
        >>> from safetensors.torch import load, save
        >>> data = save({"x": torch.ones(2)}, {name: name for name in "edcba"})
        >>> load(with_sorted_metadata(data))["x"].tolist()
        [1.0, 1.0]
    """
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    if "__metadata__" in head:
        head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def text_of(path: Path, most: int = 2**30) -> str:
    """The text of a file, without a byte-order mark; its line ends are as they stand.

    Arguments:
        path: A file; a pipe, which may never end, is refused as a folder is.
        most: Bytes that it may have.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is no file, too large, or no text in UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file, and is a folder, pipe or device")
    if path.stat().st_size > most:
        raise ValueError(f"{path} must be at most {most // 2**20} MB; split it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8 text: {error.reason} at byte {error.start}; is it compressed?"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} must be UTF-8 text, and it holds null bytes")
    return text


def lines_of(text: str) -> list[str]:
    """Lines that end at line feeds and carriage returns alone, as files do.

    >>> lines_of("a\\u2028b\\r\\nc")
    ['a\\u2028b', 'c']
    """
    return re.split(r"\r\n|\r|\n", text)


def json_of(data: str | bytes) -> Any:
    """What JSON of any origin holds.

    Raises:
        ValueError: If it isn't JSON, has a number of too many digits, or is nested so deeply that
            whoever walks through it would fail.

    >>> json_of('{"prompt": ["a cat"]}')
    {'prompt': ['a cat']}
    """
    told = f"JSON must be nested at most {_DEEPEST} deep"
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError(told) from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return found
    raise ValueError(told)


def home_path(text: str | Path) -> Path:
    """A path with `~` as the home folder; as it stands where there is no such user.

    >>> home_path("~/runs").is_absolute(), home_path("~nobody-here/runs").as_posix()
    (True, '~nobody-here/runs')
    """
    return Path(os.path.expanduser(text))


def clear_parts(folder: Path) -> None:
    """Remove what killed writers left below a folder that nobody else is writing into."""
    for part in folder.rglob(".*.part"):
        if _PART.fullmatch(part.name):
            part.unlink(missing_ok=True)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _umask() -> int:
    """The process's mask for new files, which `mkstemp` doesn't heed."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

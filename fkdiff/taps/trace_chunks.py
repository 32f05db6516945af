"""What each transition of a run has left, in files written once: each save costs the same."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from fkdiff.files import write_whole
from fkdiff.taps.snapshot_file import SnapshotError, Tree, packed, unpacked

__all__ = ["TraceChunks", "chunks_of"]

CHUNK = 32
"""Entries of a file; those since the last file stand in the snapshot itself."""

_HEAD = struct.Struct("<QQ")  # lengths of an entry's two parts: JSON and tensors


class TraceChunks:
    """Keeps entries beside a snapshot, `CHUNK` in a file, and reads back those that it names.

    A file is named by a digest of what it holds and never changed: what an older snapshot names
    stays whole whatever a later run keeps.

    Arguments:
        snapshot: The snapshot's file.
    """

    def __init__(self, snapshot: Path) -> None:
        self._snapshot = snapshot
        self._digests: list[str] = []
        self._recent: list[bytes] = []

    @property
    def entries(self) -> int:
        """Entries kept so far."""
        return CHUNK * len(self._digests) + len(self._recent)

    def append(self, entries: Sequence[Tree]) -> dict[str, Any]:
        """Add entries; returns what a snapshot must hold to name all so far.

        Raises:
            OSError: If a file can't be written; those before it stay.
        """
        self._recent += map(_encoded, entries)
        while len(self._recent) >= CHUNK:
            data = b"".join(self._recent[:CHUNK])
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            write_whole(_path(self._snapshot, digest), data)
            self._digests.append(digest)
            del self._recent[:CHUNK]
        recent = torch.frombuffer(bytearray(b"".join(self._recent) or b"\0"), dtype=torch.uint8)
        return {"files": list(self._digests), "recent": recent if self._recent else recent[:0]}

    def read(self, named: Any) -> list[Tree]:
        """The entries that a snapshot names; `append` then goes on behind them.

        Raises:
            OSError: If a file can't be read.
            SnapshotError: If a file isn't there, or something holds no entries.
        """
        try:
            parts = [_checked(self._snapshot, digest) for digest in named["files"]]
            parts.append(named["recent"].numpy().tobytes())
            chunks = [_split(part) for part in parts]
            if any(len(chunk) != CHUNK for chunk in chunks[:-1]) or len(chunks[-1]) >= CHUNK:
                raise ValueError(f"a file must hold {CHUNK} entries")
            entries = [_decoded(entry) for chunk in chunks for entry in chunk]
        except (SnapshotError, OSError):
            raise
        except Exception as error:  # whatever strange bytes may bring about
            raise SnapshotError(
                f"the trace of {self._snapshot} is damaged ({' '.join(str(error).split())}); "
                f"delete the snapshot to start anew"
            ) from None
        self._digests, self._recent = list(named["files"]), chunks[-1]
        return entries


def chunks_of(snapshot: Path) -> list[Path]:
    """The files that hold entries of a snapshot, also of one that was there before."""
    return sorted(snapshot.parent.glob(_path(snapshot, "?" * 12).name))


def _path(snapshot: Path, digest: str) -> Path:
    return snapshot.with_name(f"{snapshot.stem}.{digest[:12]}.trace")


def _checked(snapshot: Path, digest: Any) -> bytes:
    if not (isinstance(digest, str) and len(digest) == 32 and digest.isalnum()):
        raise ValueError(f"{digest!r:.40} names no file")
    path = _path(snapshot, digest)
    if not path.is_file():
        raise SnapshotError(
            f"{path} doesn't exist, which belongs to {snapshot.name}; put it back, or delete the "
            f"snapshot to start anew"
        )
    data = path.read_bytes()
    if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
        raise ValueError(f"the checksum of {path.name} is another")
    return data


def _encoded(entry: Tree) -> bytes:
    tensors: dict[str, Any] = {}
    text = json.dumps(packed(entry, tensors)).encode()
    data = save(tensors)
    return _HEAD.pack(len(text), len(data)) + text + data


def _split(data: bytes) -> list[bytes]:
    """The entries that were put one after the other."""
    entries, place = [], 0
    while place < len(data):
        end = place + _HEAD.size + sum(_HEAD.unpack_from(data, place))
        if end > len(data):
            raise ValueError("an entry is cut off")
        entries.append(data[place:end])
        place = end
    return entries


def _decoded(entry: bytes) -> Tree:
    text, _ = _HEAD.unpack_from(entry)
    middle = _HEAD.size + text
    return unpacked(json.loads(entry[_HEAD.size : middle]), load(entry[middle:]))

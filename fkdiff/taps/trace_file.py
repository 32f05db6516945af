"""What each transition of a run has left, appended to a file: each save costs the same."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from fkdiff.files import write_at
from fkdiff.taps.snapshot_file import SnapshotError, Tree, packed, unpacked

__all__ = ["TraceFile"]

_HEAD = struct.Struct("<QQ")  # lengths of an entry's two parts: JSON and tensors


class TraceFile:
    """Appends entries to a file, and reads back those that a snapshot names.

    A snapshot names where its entries begin and end, and their digest. What a killed process left
    behind that end is written over. Entries of a run that starts anew begin behind all that is
    there, so that an older snapshot can be used until the first one of the new run.

    Arguments:
        path: The file; made by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = self._end = path.stat().st_size if path.is_file() else 0
        self._digest = hashlib.blake2b(digest_size=16)
        self.entries = 0

    def append(self, entries: Sequence[Tree]) -> dict[str, Any]:
        """Add entries; returns what a snapshot must hold to name all so far.

        Raises:
            OSError: If the file can't be written; what is named so far stays.
        """
        data = b"".join(map(_encoded, entries))
        write_at(self.path, self._end, data)
        self._digest.update(data)
        self._end += len(data)
        self.entries += len(entries)
        return {"start": self._start, "end": self._end, "digest": self._digest.hexdigest()}

    def read(self, named: Any) -> list[Tree]:
        """The entries that a snapshot names; `append` then goes on behind them.

        Raises:
            SnapshotError: If the file isn't there or holds something else.
        """
        try:
            start, end, digest = named["start"], named["end"], named["digest"]
            if not 0 <= start <= end <= self.path.stat().st_size:
                raise ValueError("it is shorter than the snapshot says")
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
            found = hashlib.blake2b(data, digest_size=16)
            if found.hexdigest() != digest:
                raise ValueError("its checksum is another")
            entries = _decoded(data)
        except FileNotFoundError:
            raise SnapshotError(
                f"{self.path} doesn't exist, which belongs to the snapshot beside it; put it "
                f"back, or delete the snapshot to start anew"
            ) from None
        except OSError:
            raise
        except Exception as error:  # whatever strange bytes may bring about
            raise SnapshotError(
                f"{self.path} is damaged ({' '.join(str(error).split())}); delete it and the "
                f"snapshot beside it to start anew"
            ) from None
        self._start, self._end, self._digest, self.entries = start, end, found, len(entries)
        return entries


def _encoded(entry: Tree) -> bytes:
    tensors: dict[str, Any] = {}
    text = json.dumps(packed(entry, tensors)).encode()
    data = save(tensors)
    return _HEAD.pack(len(text), len(data)) + text + data


def _decoded(data: bytes) -> list[Tree]:
    entries, place = [], 0
    while place < len(data):
        text, tensors = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        packed_entry = json.loads(data[place : place + text])
        place += text
        entries.append(unpacked(packed_entry, load(data[place : place + tensors])))
        place += tensors
    return entries

"""A run's state after each step on disk, and a call of the pipeline that goes on from it.

What each transition leaves for good goes to files beside the state that are written once, so that
each save costs the same. A stock pipeline's loop can't be entered in the middle, so the call is
made again: up to the saved step its network is answered with zeros, and then everything that the
loop, the solver, the cloud and the random streams remember is put in place.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkdiff.files import home_path
from fkdiff.folders import claimed
from fkdiff.processes.shards import Shards
from fkdiff.taps.batching import sliced
from fkdiff.taps.denoiser import NetworkCall
from fkdiff.taps.outputs import blank
from fkdiff.taps.scheduler import Call
from fkdiff.taps.snapshot_check import check_fit, check_state
from fkdiff.taps.snapshot_file import SnapshotError, read_tree, write_tree
from fkdiff.taps.snapshot_state import restore, state_of
from fkdiff.taps.trace_chunks import TraceChunks, chunks_of

__all__ = ["Keeper", "SnapshotError", "Snapshots", "held"]

_REPLAYED = frozenset({"micro_batch"})
"""Settings that may differ: they change how much is done at once, not what."""


@dataclass(frozen=True)
class Snapshots:
    """Where a run keeps its state, to go on from it in a later call of the same settings.

    Processes that share a cloud keep what each has in a file of its own, all in this folder.

    Arguments:
        folder: Created if need be.
        every: Transitions between two saves, at least 1; the last one is never saved.
        name: Of the file in the folder.
        fresh: Start anew, whatever is there.
        note: Facts for the file's header, ready for JSON.

    Raises:
        ValueError: If `every` is below 1.

    Example:
        >>> Snapshots.of("runs/demo").file.as_posix()
        'runs/demo/snapshot.safetensors'
    """

    folder: str | Path
    every: int = 1
    name: str = "snapshot.safetensors"
    fresh: bool = False
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}; None keeps nothing")
        if not str(self.folder):
            raise ValueError("keep must name a folder, got an empty path; None keeps nothing")

    @classmethod
    def of(cls, keep: "Snapshots | str | Path | None") -> "Snapshots | None":
        """What `steer(keep=...)` takes; a folder stands for its defaults."""
        return keep if keep is None or isinstance(keep, Snapshots) else cls(keep)

    @property
    def file(self) -> Path:
        """The snapshot; whole whenever it is there."""
        return self.file_of(0)

    def file_of(self, rank: int) -> Path:
        """The file of one of the processes that share a cloud."""
        path = home_path(self.folder) / self.name
        return path.with_stem(f"{path.stem}.{rank}") if rank else path

    def forget(self, processes: int = 1) -> None:
        """Delete the snapshot, once what came out of the run is safe.

        Arguments:
            processes: Those that shared the cloud; one of them deletes the files of all.
        """
        for rank in range(processes):
            file = self.file_of(rank)
            for path in (file, _next(file), *chunks_of(file)):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Saved:
    """A snapshot that can be used.

    Arguments:
        tree: Its state.
        history: What each transition before it has left.
        trace: The files of that, at the place where they go on.
    """

    tree: dict[str, Any]
    history: list[dict[str, Any]]
    trace: TraceChunks


def held(keep: Snapshots | None, rank: int = 0) -> AbstractContextManager[object]:
    """The folder of a run's states, held for that run alone; by its first process, for all.

    Raises:
        BlockingIOError: On entry, if another run holds it.
    """
    if keep is None or rank:
        return nullcontext()
    return claimed(home_path(keep.folder))


class Keeper:
    """Saves one run, or goes on with one.

    Where processes share it, a state gets its name once each of them has written its own, so that
    whenever they end there is one that all of them have.

    Arguments:
        place: Where.
        settings: What the run depends on; those of a snapshot must be the same.
        shards: Which rows are here.

    Raises:
        SnapshotError: If the snapshot there is damaged, of another version or another run, or
            processes have none in common.
    """

    def __init__(self, place: Snapshots, settings: Mapping[str, Any], shards: Shards) -> None:
        # A reward may change the working folder; the states stay where they are.
        place = replace(place, folder=home_path(place.folder).absolute())
        self.place, self.settings = place, json.loads(json.dumps(_told(settings)))
        self.shards, self.file = shards, place.file_of(shards.rank)
        self._templates: dict[str, Any] = {}
        self._began, self._spent, self._moved = time.perf_counter(), 0.0, 0
        self._trace = TraceChunks(self.file)
        self._saved = None if place.fresh else self._found()

    def _found(self) -> "_Saved | None":
        """The last state that all processes have."""
        named = self._read(self.file)
        if self.shards.world > 1:
            named = self._common(named, self._read(_next(self.file)))
        if named is not None:
            self._trace = named.trace
        return named

    def _common(self, named: "_Saved | None", unnamed: "_Saved | None") -> "_Saved | None":
        """The last state that the processes have in common, which becomes the named one."""
        states = [saved for saved in (named, unnamed) if saved is not None]
        told = [json.loads(text) for text in self.shards.told(_moves(named, states))]
        common = set.intersection(*(set(each["states"]) for each in told))
        if not common and any(each["named"] for each in told):
            raise SnapshotError(
                f"{self.file} and the files of the other processes are of different steps, or "
                f"some are gone; delete them to start anew"
            )
        if not common:
            return None
        chosen = next(s for s in states if s.tree["moves"] == max(common))
        if chosen is unnamed:
            _next(self.file).replace(self.file)
        else:
            _next(self.file).unlink(missing_ok=True)
        return chosen

    def _read(self, file: Path) -> "_Saved | None":
        if not file.is_file():
            return None
        tree, about = read_tree(file)
        self._check(about.get("settings"))
        trace = TraceChunks(self.file)
        history = trace.read(tree.pop("trace", None))
        try:
            check_state(tree, history, self.shards)
        except ValueError as error:
            raise SnapshotError(f"{file} holds no run: {error}; delete it to start anew") from None
        return _Saved(tree, history, trace)

    @property
    def skipping(self) -> bool:
        """Whether the call is still before the saved step."""
        return self._saved is not None

    def answer(self, call: NetworkCall) -> Any:
        """Zeros in the place of a prediction; one row is evaluated to learn their shape."""
        if call.name not in self._templates:
            self._templates[call.name] = call.evaluate(
                sliced(call.bound, call.batch, 0, 1, call.axes)
            )
        return blank(self._templates[call.name], call.batch)

    def skip(self, tap: Any, call: Call) -> None:
        """Let a step pass; at the saved one, put back what was."""
        assert self._saved is not None
        tree = self._saved.tree
        self._moved += call.moved
        if call.calls != tree["calls"]:
            raise SnapshotError(f"{self.file} is of another run; choose another folder")
        if call.position == tree["position"]:
            try:
                check_fit(tree, state_of(tap, call), self._moved)
                restore(tap, call, tree, self._saved.history)
            except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
                raise SnapshotError(
                    f"{self.file} doesn't fit this run ({error}); delete it to start anew"
                ) from error
            self._spent = tap.cost.seconds["total"]
            self._saved = None

    def keep(self, tap: Any, call: Call) -> None:
        """Save, where it is time to.

        Raises:
            OSError: If the file can't be written; the older one stays.
            PeerError: If another process can't write its own.
        """
        if call.last or tap.index % self.place.every:
            return
        about = {"settings": self.settings, "note": dict(self.place.note)}
        state = state_of(tap, call)
        total = self._spent + time.perf_counter() - self._began
        state["cost"]["seconds"] = {**tap.cost.seconds, "total": total}
        state["trace"] = self._trace.append(tap.engine.history(self._trace.entries))
        if self.shards.world == 1:
            write_tree(self.file, state, about)
            return
        write_tree(_next(self.file), state, about)
        self.shards.meet()
        _next(self.file).replace(self.file)

    def _check(self, other: Any) -> None:
        if not isinstance(other, dict):
            raise SnapshotError(f"{self.file} tells no settings; delete it to start anew")
        mine, theirs = (
            {k: v for k, v in found.items() if k not in _REPLAYED}
            for found in (self.settings, other)
        )
        changed = [k for k in {**mine, **theirs} if mine.get(k) != theirs.get(k)]
        if changed == ["weights"]:
            raise SnapshotError(
                f"{self.file} was made with other weights of the model than those that are "
                f"loaded; load the same ones, or delete it to start anew"
            )
        if changed:
            told = "; ".join(
                f"{k}: {theirs.get(k)!r:.60} there, {mine.get(k)!r:.60} here" for k in changed[:3]
            )
            raise SnapshotError(
                f"{self.file} is of another run ({told}); choose another folder, or delete "
                f"it to start anew"
            )


def _next(file: Path) -> Path:
    """What becomes the snapshot once all processes have written theirs."""
    return file.with_stem(f"{file.stem}.next")


def _moves(saved: "_Saved | None", states: "Sequence[_Saved]") -> str:
    """What a process tells the others of the states that it has."""
    return json.dumps({"named": saved is not None, "states": [s.tree["moves"] for s in states]})


def _told(value: Any) -> Any:
    """A setting for comparison: JSON as it is, tensors and pictures by a digest of their bytes."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {hashlib.blake2b(data, digest_size=8).hexdigest()}"
    if hasattr(value, "tobytes"):  # arrays and Pillow's images
        return hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))

"""A run's state after each step on disk, and a call of the pipeline that goes on from it.

A stock pipeline's loop can't be entered in the middle, so the call is made again: up to the saved
step its network is answered with zeros, and then everything that the loop, the solver, the cloud
and the random streams remember is put in place.
"""

import hashlib
import json
import re
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
from fkdiff.taps.guidance import Guidance
from fkdiff.taps.outputs import blank
from fkdiff.taps.scheduler import Call
from fkdiff.taps.snapshot_file import SnapshotError, fits, read_tree, write_tree

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
            self.file_of(rank).unlink(missing_ok=True)
            _next(self.file_of(rank)).unlink(missing_ok=True)


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
        self._saved = None if place.fresh else self._found()

    def _found(self) -> dict[str, Any] | None:
        """The last state that all processes have."""
        saved = self._read(self.file)
        if self.shards.world == 1:
            return saved
        states = [s for s in (saved, self._read(_next(self.file))) if s is not None]
        told = [json.loads(text) for text in self.shards.told(_moves(saved, states))]
        common = set.intersection(*(set(each["states"]) for each in told))
        if common:
            return next(s for s in states if s["moves"] == max(common))
        if any(each["named"] for each in told):
            raise SnapshotError(
                f"{self.file} and the files of the other processes are of different steps, or "
                f"some are gone; delete them to start anew"
            )
        return None

    def _read(self, file: Path) -> dict[str, Any] | None:
        if not file.is_file():
            return None
        tree, about = read_tree(file)
        self._check(about.get("settings", {}))
        return tree

    @property
    def skipping(self) -> bool:
        """Whether the call is still before the saved step."""
        return self._saved is not None

    def answer(self, call: NetworkCall) -> Any:
        """Zeros in the place of a prediction; one row is evaluated to learn their shape."""
        if call.name not in self._templates:
            self._templates[call.name] = call.evaluate(sliced(call.bound, call.batch, 0, 1))
        return blank(self._templates[call.name], call.batch)

    def skip(self, tap: Any, call: Call) -> None:
        """Let a step pass; at the saved one, put back what was."""
        assert self._saved is not None
        if call.calls != self._saved.get("calls"):
            raise SnapshotError(f"{self.file} is of another run; choose another folder")
        if call.position == self._saved["position"]:
            try:
                restore(tap, call, self._saved)
            except (KeyError, TypeError, AttributeError, RuntimeError) as error:
                raise SnapshotError(
                    f"{self.file} doesn't fit this run ({error!r}); delete it to start anew"
                ) from error
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
        if self.shards.world == 1:
            write_tree(self.file, state_of(tap, call), about)
            return
        write_tree(_next(self.file), state_of(tap, call), about)
        self.shards.meet()
        _next(self.file).replace(self.file)

    def _check(self, other: Mapping[str, Any]) -> None:
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


def _moves(saved: Mapping[str, Any] | None, states: Sequence[Mapping[str, Any]]) -> str:
    """What a process tells the others of the states that it has."""
    return json.dumps({"named": saved is not None, "states": [s["moves"] for s in states]})


def state_of(tap: Any, call: Call) -> dict[str, Any]:
    """Everything that a run of a `PipelineTap` remembers after a call of the scheduler."""
    moves, batch = tap.moves, len(call.sample)
    return {
        "position": call.position,
        "calls": call.calls,
        "moves": tap.index,
        "output": {
            name: value
            for name, value in call.output.items()
            if isinstance(value, Tensor) and value.ndim and len(value) == batch
        },
        "scheduler": {name: v for name, v in vars(call.scheduler).items() if fits(v)},
        "generators": [generator.get_state() for generator in tap.generators],
        "parents": tap.parents,
        "origin": tap.origin,
        "replaced": tap.replaced,
        "micro_batch": tap.micro_batch,
        "pool": None if moves is None else _pool_state(moves.pool),
        "engine": tap.engine.state(),
        "cost": {name: value for name, value in vars(tap.cost).items() if fits(value)},
    }


def restore(tap: Any, call: Call, saved: dict[str, Any]) -> None:
    """Put a `state_of` back into the tap, the scheduler and what its step returns."""
    here = vars(call.scheduler)
    for name, value in saved["scheduler"].items():
        if name in here:  # a file can't give a scheduler what it doesn't have
            here[name] = _placed(value, here[name], call.sample)
    call.output.update(
        {name: _placed(v, None, call.sample) for name, v in saved["output"].items()}
    )
    for generator, state in zip(tap.generators, saved["generators"], strict=True):
        generator.set_state(state)
    tap.index, tap.parents, tap.origin = saved["moves"], saved["parents"], saved["origin"]
    tap.own.replaced = saved["replaced"]
    tap.micro_batch = _less(tap.micro_batch, saved["micro_batch"])
    tap.continued(tap.kept.permute, saved["origin"])
    if tap.moves is not None:
        _restore_pool(tap.moves.pool, saved["pool"], call.sample.device)
    tap.engine.restore(saved["engine"])
    for name, value in saved["cost"].items():
        setattr(tap.cost, name, value)


def _pool_state(pool: Any) -> dict[str, Any]:
    guidance, maps = pool.guidance, None if pool.regions is None else pool.regions.maps
    return {
        "guidance": None if guidance is None else dict(vars(guidance)),
        "shrink": pool.shrink,
        "progress": pool.progress,
        "maps": None if maps is None else maps.state(),
    }


def _restore_pool(pool: Any, saved: dict[str, Any], device: torch.device) -> None:
    pool.guidance = None if saved["guidance"] is None else Guidance(**saved["guidance"])
    pool.shrink, pool.progress = saved["shrink"], saved["progress"]
    if saved["maps"] is not None:
        pool.regions.maps.restore(saved["maps"], device)


def _placed(value: Any, present: Any, like: Tensor) -> Any:
    """A value with its tensors where the replayed run has them, or where the state is."""
    if isinstance(value, Tensor):
        if isinstance(present, Tensor):
            return value.to(present.device)
        return value.to(like.device) if value.ndim == like.ndim else value
    if isinstance(value, list | tuple):
        others = present if isinstance(present, list | tuple) else ()
        padded = [*others, *[None] * len(value)]
        return type(value)(
            _placed(item, other, like) for item, other in zip(value, padded, strict=False)
        )
    return value


def _less(asked: int | None, used: int | None) -> int | None:
    """The smaller micro-batch: memory that ran out before would run out again."""
    return min((size for size in (asked, used) if size is not None), default=None)


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

"""Lines of a file of prompts that are drawn at once: which, and how many."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fkdiff.commands.request import Request
from fkdiff.commands.resuming import unfinished, unfinished_together

__all__ = ["Group", "Line", "Room", "groups", "kept_groups"]

_ENOUGH = 32
"""Particles in a call from which on more of them make nothing faster."""

_GB = 2**30


@dataclass(frozen=True)
class Line:
    """A line of the file.

    Arguments:
        request: Checked, with one prompt.
        folder: Where it goes.
    """

    request: Request
    folder: Path


@dataclass(frozen=True)
class Group:
    """Lines to draw at once.

    Arguments:
        lines: One or more, which differ in their prompts and seeds alone.
        states: Folder of the states that they keep together.
        go_on: Whether there are states to go on from.
    """

    lines: tuple[Line, ...]
    states: Path
    go_on: bool = False


@dataclass
class Room:
    """How many prompts have room beside each other.

    Arguments:
        batch: As many, or None to begin with one and double as long as memory lasts.
        memory: GB that may be taken; None for what is free.
    """

    batch: int | None
    memory: float | None
    size: int = field(init=False)
    grows: bool = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was learnt."""
        self.grows = self.batch is None
        self.size = 1 if self.batch is None else self.batch

    def fewer(self, size: int) -> None:
        """Draw no more than so many from now on."""
        self.size, self.grows = max(1, min(size, self.size)), False

    def learn(self, drawn: int, settings: dict[str, Any], particles: int) -> None:
        """Look back on a run: draw more where it left room, fewer where memory ran out in it.

        Arguments:
            drawn: Prompts of the run.
            settings: Of its result.
            particles: K.
        """
        if "out_of_memory" in settings:
            self.fewer(int(settings["micro_batch"]) // particles)
        elif self.grows and drawn == self.size and 2 * drawn * particles <= _ENOUGH:
            taken, limit = _memory()
            limit = limit if self.memory is None else self.memory * _GB
            if 2 * taken <= limit:  # twice the prompts take less than twice the memory
                self.size *= 2


def groups(lines: Sequence[Line], out: Path, room: Room) -> Iterator[Group]:
    """Lines of equal settings as many at a time as have room, in the file's order.

    A line that has states of its own goes on with them, alone.
    """
    kinds: dict[Request, list[Line]] = {}
    for line in lines:
        if unfinished(line.request, line.folder):
            yield Group((line,), _states(out, line), go_on=True)
        else:
            kind = replace(line.request, prompts=(), seed=0, out=None)
            kinds.setdefault(kind, []).append(line)
    for alike in kinds.values():
        room.begin()  # other settings take other memory
        start = 0
        while start < len(alike):
            some = tuple(alike[start : start + room.size])
            start += len(some)
            yield Group(some, _states(out, some[0]))


def kept_groups(lines: Sequence[Line], out: Path) -> list[Group]:
    """Groups that were begun and have left their states, where none of their lines is done."""
    found: list[Group] = []
    for states in sorted(out.glob("together-*")):
        places = unfinished_together([line.request for line in lines], states)
        some = tuple(lines[place] for place in places)
        taken = {line.folder for group in found for line in group.lines}
        if some and len({line.folder for line in some} - taken) == len(some):
            found.append(Group(some, states, go_on=True))
    return found


def _states(out: Path, first: Line) -> Path:
    return out / f"together-{first.folder.name.split('-')[0]}"


def _memory() -> tuple[float, float]:
    """Bytes that this process has taken at most, and those that it may take."""
    import torch

    from fkdiff.terms.memory import peak_memory

    taken = peak_memory()
    if torch.cuda.is_available():
        return taken, torch.cuda.memory_reserved() + torch.cuda.mem_get_info()[0]
    return taken, taken + _free()


def _free() -> float:
    """Bytes of main memory that are free, as far as the system tells."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # macOS doesn't tell what is free
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    try:
        here = Path("/sys/fs/cgroup")
        limit, used = ((here / f"memory.{name}").read_text() for name in ("max", "current"))
        return free if limit.strip() == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free

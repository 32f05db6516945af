"""One cloud over many processes: which particles a process holds, and how rows get to others.

Each process holds the same range of slots of every prompt. What decides is small, and every
process has all of it: weights, scores, lineage. Rows stay where they are, and only those that are
continued elsewhere travel.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.cuts import limits
from fkdiff.processes.peers import Peers
from fkdiff.processes.row_bits import bits_of, by_row, marks_of, of_rows, picked_rows, rows_from
from fkdiff.processes.streams import Seed

__all__ = ["Shards", "agreed_seed"]


class Shards:
    """Slots of P prompts with K particles each, and the range of them that is here.

    Rows are counted prompt-major: N = P K in the whole run, n = P k here, where k slots of each
    prompt are. With `micro_batch` the limits between processes are limits of micro-batches, so
    that every network call has the very rows that it has in one process.

    Arguments:
        prompts: P.
        particles: K.
        group: The processes, None for this one alone.
        micro_batch: Rows per network call, None for all that are here.

    Raises:
        ValueError: If there are fewer particles or micro-batches than processes.

    Example:
        >>> shards = Shards(2, 3)
        >>> shards.rows.tolist(), [rows.tolist() for rows in shards.batches(4)]
        ([0, 1, 2, 3, 4, 5], [[0, 1, 3, 4], [2, 5]])
    """

    def __init__(
        self,
        prompts: int,
        particles: int,
        group: Any = None,
        micro_batch: int | None = None,
    ) -> None:
        self.prompts, self.particles = prompts, particles
        self.peers = None if group is None else Peers(group)
        self.rank, self.world = (
            (0, 1) if self.peers is None else (self.peers.rank, self.peers.world)
        )
        self.limits = limits(prompts, particles, self.world, micro_batch)
        if self.peers is not None:
            self.peers.width = prompts * max(len(self._slots(q)) for q in range(self.world))
        self._plan: tuple[Tensor, _Plan] | None = None

    @property
    def slots(self) -> range:
        """Slots of each prompt that are here."""
        return self._slots(self.rank)

    @cached_property
    def rows(self) -> Tensor:
        """Rows of the run that are here, shape (n,), int64."""
        return self.rows_of(self.rank)

    @cached_property
    def everyone(self) -> Tensor:
        """All rows of the run, shape (N,), int64."""
        return torch.arange(self.prompts * self.particles)

    @cached_property
    def places(self) -> Tensor:
        """Places of the rows here among themselves, shape (n,), int64."""
        return torch.arange(len(self.rows))

    def rows_of(self, rank: int) -> Tensor:
        """Rows of the run that another process holds."""
        slots = self._slots(rank)
        starts = torch.arange(self.prompts)[:, None] * self.particles
        return (starts + torch.arange(slots.start, slots.stop)).flatten()

    def batches(self, size: int | None, rows: Tensor | None = None) -> list[Tensor]:
        """Micro-batches of rows that are here: places among `rows`, ascending in each.

        Slots come first and prompts second, so that the cuts are the same at any number of
        processes.

        Arguments:
            size: Rows in each, None for all.
            rows: Some of the n rows here, all different; None for all.
        """
        rows = self.places if rows is None else rows
        if size is None or size >= len(self.rows) or not len(rows):
            return [self.places[: len(rows)]] if len(rows) else []
        k = len(self.slots)
        number = (rows % k * self.prompts + rows // k) // size
        return [(number == each).nonzero()[:, 0] for each in number.unique()]

    def gather(self, values: Tensor) -> Tensor:
        """Numbers of all rows, shape (N,), from those of the rows here, (n,), 64 bits each."""
        values = values.cpu()
        if self.peers is None:
            return values
        heard = self.peers.numbers(values.view(torch.float64))
        return heard.flatten()[self._heard_at].view(values.dtype)

    def total(self, number: float) -> float:
        """Sum of a number over the processes."""
        if self.peers is None:
            return number
        said = torch.tensor([number], dtype=torch.float64)
        return float(self.peers.numbers(said)[:, 0].sum())

    def told(self, text: str, size: int = 128) -> list[str]:
        """A text of every process, of at most `size` bytes."""
        if self.peers is None:
            return [text]
        self.peers.check()
        return self.peers.texts(text, size)

    def meet(self) -> None:
        """Wait until every process is here."""
        if self.peers is not None:
            self.peers.check()

    def local(self, rows: Tensor) -> Tensor:
        """Which of the n rows here are among some of the run, ascending."""
        chosen = torch.zeros(self.prompts * self.particles, dtype=torch.bool)
        chosen[rows] = True
        return chosen[self.rows].nonzero()[:, 0]

    def agree(self, values: Tensor, parents: Tensor) -> Tensor:
        """Whether each row of the run equals its parent's bit for bit, shape (N,), bool.

        Arguments:
            values: Something of each row here, (n, *).
            parents: A row for each row of the run, (N,).
        """
        if parents is self.everyone or torch.equal(parents, self.everyone):
            return torch.ones(len(parents), dtype=torch.bool)
        if self.peers is None:
            return (values == values[parents.to(values.device)]).flatten(1).all(dim=1).cpu()
        marks = self.gather(marks_of(values))
        return marks == marks[parents]

    def take(self, values: Sequence[Tensor], parents: Tensor) -> list[Tensor]:
        """Rows that those here continue; what other processes hold comes from them, all at once.

        Arguments:
            values: Something of each row here, (c n, *) each, c copies of all rows one after
                another.
            parents: A row for each row of the run, (N,), the same on all processes.

        Returns:
            As many, of the same shapes.
        """
        n = len(self.rows)
        if self.peers is None:
            return [picked_rows(value, parents, n) for value in values]
        if not values:
            return []
        plan, place = self._planned(parents), values[0].device
        packed = [by_row(value, n).to(place) for value in values]
        rows, source = torch.cat(packed, 1), plan.source.to(place)
        size = rows.shape[1]
        heard = self.peers.swap(
            {rank: rows[part.to(place)].flatten() for rank, part in plan.send.items()},
            {rank: number * size for rank, number in plan.receive.items()},
        )
        new = [heard[rank].view(-1, size).to(place) for rank in plan.receive]
        parts = torch.cat([rows, *new])[source].split([part.shape[1] for part in packed], 1)
        return [of_rows(part, value) for part, value in zip(parts, values, strict=True)]

    def share(self, values: Tensor | None, wanted: Tensor) -> Tensor | None:
        """Wanted rows of the run, shape (W, *), the same on all processes.

        Arguments:
            values: Something of each row here, (n, *); None where there is nothing, which only
                a process that holds no wanted row may say if another says something.
            wanted: Rows of the run, (W,).
        """
        if self.peers is None:
            if values is None or torch.equal(wanted, self.everyone):
                return values
            return values[wanted.to(values.device)]
        kind = None if values is None else [list(values.shape[1:]), str(values.dtype)[6:]]
        told = [json.loads(text) for text in self.told(json.dumps(kind))]
        kinds = [each for each in told if each is not None]
        if not kinds:
            return None
        like = torch.empty(1, *kinds[0][0], dtype=getattr(torch, kinds[0][1]))
        owner, place = self._owner(wanted)
        mine = like[:0] if values is None else values.detach().cpu()[place[owner == self.rank]]
        others = [rank for rank in range(self.world) if rank != self.rank]
        size = like.numel() * like.element_size()
        heard = self.peers.swap(
            {rank: bits_of(mine) for rank in others if len(mine)},
            {rank: n * size for rank in others if (n := int((owner == rank).sum()))},
        )
        shared = like.expand(len(wanted), *like.shape[1:]).clone()
        shared[owner == self.rank] = mine
        for rank, data in heard.items():
            shared[owner == rank] = rows_from(data, like)
        return shared

    def alone(self, values: Tensor) -> Tensor:
        """Rows here (n, *) in the places that they have in the run, (N, *), the others nan."""
        if self.peers is None:
            return values
        whole = values.new_full((self.prompts * self.particles, *values.shape[1:]), math.nan)
        whole[self.rows.to(whole.device)] = values
        return whole

    def at_home(self, chosen: Tensor) -> Tensor:
        """Where each slot stays if it is chosen, and gives way to one that is, or to any, if not.

        Arguments:
            chosen: Rows of the run that come out.

        Returns:
            A row for each row of the run, (N,), that the same process holds.
        """
        stay = self.everyone.clone()
        wanted = torch.zeros_like(stay, dtype=torch.bool)
        wanted[chosen] = True
        for rank in range(self.world):
            rows = self.rows_of(rank)
            kept = wanted[rows]
            stay[rows] = torch.where(kept, rows, rows[kept.int().argmax()])
        return stay

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell the other processes if the block fails, so that they don't wait."""
        try:
            yield
        except BaseException as error:
            if self.peers is not None:
                self.peers.fail(error)
            raise

    def _slots(self, rank: int) -> range:
        return range(self.limits[rank], self.limits[rank + 1])

    @cached_property
    def _heard_at(self) -> Tensor:
        """Where the number of each row of the run is among those that all processes say."""
        assert self.peers is not None
        owner, place = self._owner(self.everyone)
        return owner * self.peers.width + place

    def _owner(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Process that holds each row of the run, and its place among the rows there."""
        edges = torch.tensor(self.limits)
        slot = rows % self.particles
        owner = torch.bucketize(slot, edges, right=True) - 1
        start, k = edges[owner], edges[owner + 1] - edges[owner]
        return owner, rows // self.particles * k + slot - start

    def _planned(self, parents: Tensor) -> "_Plan":
        """What goes where; the same for all that a resampling moves."""
        if self._plan is None or self._plan[0] is not parents:
            self._plan = parents, _Plan(self, parents)
        return self._plan[1]


class _Plan:
    """Which rows a process sends, which it gets, and where those that it needs then are."""

    def __init__(self, shards: Shards, parents: Tensor) -> None:
        self.send: dict[int, Tensor] = {}
        self.receive: dict[int, int] = {}
        here = parents[shards.rows]
        owner, place = shards._owner(here)
        self.source, start = place.clone(), len(shards.rows)
        for rank in range(shards.world):
            if rank == shards.rank:
                continue
            theirs = parents[shards.rows_of(rank)].unique()
            asked, places = shards._owner(theirs)
            if (asked == shards.rank).any():
                self.send[rank] = places[asked == shards.rank]
            needed, which = here[owner == rank].unique(return_inverse=True)
            if len(needed):
                self.source[owner == rank] = start + which
                self.receive[rank] = len(needed)
                start += len(needed)


def agreed_seed(group: Any, seed: Seed | None, about: str) -> Seed:
    """The seed of all processes: the given one, else what the first of them has drawn.

    Arguments:
        group: The processes, None for this one alone.
        seed: The user's, None where there is none.
        about: The call in words, which must be the same for all.

    Raises:
        ValueError: If processes differ in their seeds or calls.
    """
    drawn = int.from_bytes(os.urandom(4), "little")
    if group is None:
        return drawn if seed is None else seed
    mark = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
    heard = [json.loads(t) for t in Peers(group).texts(json.dumps([seed, mark, drawn]))]
    for rank, (other, call, _) in enumerate(heard):
        for what, mine, first in (("seed", other, heard[0][0]), ("call", call, heard[0][1])):
            if mine != first:
                raise ValueError(
                    f"the {what} must be the same on all processes of the group, but that of "
                    f"process {rank} is another than that of process 0"
                )
    return heard[0][2] if seed is None else seed

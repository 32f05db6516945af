"""What processes of a group say to each other, over torch.distributed; nobody waits for the dead.

Every exchange of a run begins with one of a fixed size, in which a process that failed says so.
Wherever the others wait, they hear it, and raise the same.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["PeerError", "Peers"]

_MESSAGE = 2048


class PeerError(RuntimeError):
    """Another process of the group failed or was lost; says which and why, as far as is known."""


class Peers:
    """The processes of a group, seen from one of them.

    Arguments:
        group: A process group of torch.distributed. Its own timeout limits every wait.

    Raises:
        TypeError: If it isn't one, or this process doesn't belong to it.
    """

    def __init__(self, group: Any) -> None:
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group must be a process group that this process belongs to, got {group!r}; "
                f"call init_process_group() of torch.distributed, and pass its group.WORLD"
            )
        self.group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self._calls = _Calls(group, self.rank, self.world)
        self.width = 0
        self.received, self.seconds, self.processor = 0, 0.0, 0.0
        self._device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
        self.over = False

    def numbers(self, values: Tensor) -> Tensor:
        """Numbers of every process, (world, `width`), those that it didn't say zero.

        Arguments:
            values: What this one says, shape (n,), float64, n at most `width`.

        Raises:
            PeerError: If another process failed or is lost.
        """
        if self.over:
            raise PeerError("this run failed on one of its processes, and none of them goes on")
        said = torch.zeros(1 + self.width, dtype=torch.float64)
        said[1 : 1 + len(values)] = values
        heard = self._gathered(said)
        if heard[:, 0].any():
            self.over, failed = True, int(heard[:, 0].argmax())
            told = self.texts("", _MESSAGE)[failed]
            raise PeerError(f"process {failed} of {self.world} failed: {told}")
        return heard[:, 1:]

    def check(self) -> None:
        """Wait until every process is here.

        Raises:
            PeerError: If another process failed or is lost.
        """
        self.numbers(torch.zeros(0, dtype=torch.float64))

    def texts(self, text: str, size: int = 128) -> list[str]:
        """A text of every process, of at most `size` bytes; what is longer is cut."""
        said = torch.zeros(size, dtype=torch.uint8)
        data = text.encode()[:size]
        said[: len(data)] = torch.tensor(list(data), dtype=torch.uint8)
        heard = self._gathered(said)
        return [bytes(h).rstrip(b"\0").decode(errors="ignore") for h in heard.tolist()]

    def swap(self, send: Mapping[int, Tensor], receive: Mapping[int, int]) -> dict[int, Tensor]:
        """Bytes from other processes for bytes to them.

        Arguments:
            send: Bytes (n,) by the process that they go to.
            receive: Number of bytes by the process that they come from.
        """
        sent = {rank: data.to(self._device) for rank, data in send.items()}
        heard = {
            rank: torch.empty(size, dtype=torch.uint8, device=self._device)
            for rank, size in receive.items()
        }
        operations = [
            dist.P2POp(way, data, dist.get_global_rank(self.group, rank), self.group)
            for way, side in ((dist.isend, sent), (dist.irecv, heard))
            for rank, data in side.items()
        ]
        if operations:
            with self._timed():
                for work in dist.batch_isend_irecv(operations):
                    work.wait()
        self.received += sum(receive.values())
        return {rank: data.cpu() for rank, data in heard.items()}

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process can't go on."""
        if self.over:
            return
        self.over = True
        said = torch.zeros(1 + self.width, dtype=torch.float64)
        said[0] = 1
        try:
            self._gathered(said)
            self.texts(f"{type(error).__name__}: {error}", _MESSAGE)
        except PeerError:
            pass  # they are gone; the error that is on its way says more

    def _gathered(self, block: Tensor) -> Tensor:
        """The block (n,) of every process, shape (world, n)."""
        self._calls.answer()
        said = block.to(self._device)
        heard = said.new_empty(self.world, len(said))
        with self._timed():
            dist.all_gather(list(heard), said, group=self.group)
        self.received += (self.world - 1) * said.numel() * said.element_size()
        return heard.cpu()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        except RuntimeError as error:
            self.over = True
            raise PeerError(
                f"another of the group's {self.world} processes was lost, or didn't answer within "
                f"the group's timeout: {self._calls.missing()} ({error}); look for its own "
                f"message, and start again"
            ) from error
        finally:
            self.seconds += time.perf_counter() - wall
            self.processor += time.process_time() - processor


class _Calls:
    """A roll call in the group's store: who came to which exchange of a run.

    Arguments:
        group: The processes.
        rank: Of this one.
        world: How many there are.
    """

    def __init__(self, group: Any, rank: int, world: int) -> None:
        self.store = dist.distributed_c10d._get_process_group_store(group)
        self.rank, self.world, self.count = rank, world, 0
        self.run = self.store.add(f"fkdiff runs {rank}", 1)

    def answer(self) -> None:
        """Say that this process is at its next exchange."""
        self.count += 1
        self.store.set(self._name(self.rank), str(self.count))

    def missing(self) -> str:
        """The processes that haven't come to this one's exchange, in words."""
        try:
            late = [rank for rank in range(self.world) if self._heard(rank) < self.count]
        except RuntimeError:  # the process that keeps the store is gone
            late = []
        names = " and ".join(map(str, late))
        return f"process{'es' * (len(late) > 1)} {names}" if late else "which one isn't known"

    def _heard(self, rank: int) -> int:
        name = self._name(rank)
        return int(self.store.get(name)) if self.store.check([name]) else 0

    def _name(self, rank: int) -> str:
        return f"fkdiff run {self.run} process {rank}"

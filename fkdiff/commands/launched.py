"""Processes that `torchrun` or `accelerate launch` started together: one talks and writes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

__all__ = ["joined", "of_first", "place", "speaks"]

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables of torchrun, and those of MPI, by which accelerate starts processes on CPUs."""


def place() -> tuple[int, int]:
    """Number of this process, and how many were started together."""
    rank, world = _number(_RANK, 0), _number(_WORLD, 1)
    if world == 1 and _by_accelerate() and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch starts one process alone on CPUs, unless --mpirun_hostfile is "
            "given; for more: accelerate launch --multi_gpu, also without GPUs, or torchrun",
            stacklevel=2,
        )
    return rank, world


def speaks() -> bool:
    """Whether this process talks and writes: the first one, and the only one."""
    return _number(_RANK, 0) == 0


@contextmanager
def joined(device: str | None, seconds: float) -> Iterator[Any]:
    """The group of processes that were started together, None where there is one.

    Arguments:
        device: "cpu", or where each process computes; by default on a GPU of its own.
        seconds: How long a process waits for another before it gives up.
    """
    if place()[1] == 1:
        yield None
        return
    import torch
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=timedelta(seconds=seconds))
    try:
        yield torch.distributed.group.WORLD
    finally:
        state.destroy_process_group()


def of_first(group: Any, text: str) -> str:
    """What the first process of a group says, of at most 4096 bytes; it alone where None is."""
    from fkdiff.processes.peers import Peers

    return text if group is None else Peers(group).texts(text, 4096)[0]


def _by_accelerate() -> bool:
    return "ACCELERATE_USE_CPU" in os.environ


def _number(names: tuple[str, ...], alone: int) -> int:
    """A number of the environment; MPI's counts where accelerate uses it to start this command."""
    known = names if _by_accelerate() else names[:1]
    return next((int(os.environ[name]) for name in known if name in os.environ), alone)

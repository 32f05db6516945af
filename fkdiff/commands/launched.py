"""Processes that `torchrun` or `accelerate launch` started together: one talks and writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

__all__ = ["joined", "speaks"]

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for another before it gives up."""


def speaks() -> bool:
    """Whether this process talks and writes: the first one, and the only one."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: str | None) -> Iterator[Any]:
    """The group of processes that were started together, None where there is one.

    Arguments:
        device: "cpu", or where each process computes; by default on a GPU of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    import torch
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    try:
        yield torch.distributed.group.WORLD
    finally:
        state.destroy_process_group()

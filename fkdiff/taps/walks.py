"""Rows that are continued, put in the places of everything that a walk comes by."""

from collections.abc import Callable

from torch import Tensor

from fkdiff.processes.shards import Shards

__all__ = ["continued"]


def continued(
    walk: Callable[[Callable[[Tensor], Tensor]], None], chosen: Tensor, shards: Shards
) -> None:
    """Put the rows that are continued in the places of what a walk comes by.

    With other processes it goes twice: to see what there is, which then travels at once, and to
    put it in place.

    Arguments:
        walk: Puts what a function makes of each tensor (c n, *) in its place.
        chosen: A row for each row of the run, (N,).
        shards: Which rows are here.

    Example:
        >>> import torch
        >>> places = {"latents": torch.tensor([5.0, 6.0])}
        >>> def walk(pick):
        ...     places.update({name: pick(value) for name, value in places.items()})
        >>> continued(walk, torch.tensor([1, 1]), Shards(1, 2))
        >>> places["latents"].tolist()
        [6.0, 6.0]
    """
    if shards.world == 1:
        walk(lambda value: shards.take([value], chosen)[0])
        return
    found: list[Tensor] = []

    def seen(value: Tensor) -> Tensor:
        found.append(value)
        return value

    walk(seen)
    taken = iter(shards.take(found, chosen))
    walk(lambda _: next(taken))

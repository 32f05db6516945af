"""Rows of a batch: which agree, some of them, and parts put together again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["alike", "joined", "picked"]


def alike(tokens: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """First of the rows with the same tokens and text, (U,), and each one's place among them.

    Arguments:
        tokens: One or more draws of N rows, shape (n N, L).
        texts: N texts.

    Example:
        >>> alike(torch.tensor([[1], [2], [1]]), ["", "", ""])
        (tensor([0, 1]), tensor([0, 1, 0]))
    """
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    asked = torch.tensor([number[text] for text in texts]).repeat(len(tokens) // len(texts))
    keys = torch.cat([asked[:, None], tokens.flatten(1).cpu()], 1)
    _, place = keys.unique(dim=0, return_inverse=True)
    first = torch.full((int(place.max()) + 1,), len(tokens))
    first = first.scatter_reduce(0, place, torch.arange(len(tokens)), "amin")
    return first, place


def picked(samples: Any, places: Tensor) -> Any:
    """Some of a batch, in their order; all of it as it is."""
    if len(places) == len(samples):
        return samples
    if isinstance(samples, Tensor):
        return samples[places.to(samples.device)]
    return [samples[place] for place in places.tolist()]


def joined(parts: Sequence[Any], places: Sequence[Tensor]) -> Any:
    """Parts of a batch by the places that they have in it; None of nothing."""
    if len(parts) < 2:
        return parts[0] if parts else None
    order = torch.cat(list(places)).argsort()
    if isinstance(parts[0], Tensor):
        whole = torch.cat(list(parts))
        in_order = torch.equal(order, torch.arange(len(order)))
        return whole if in_order else whole[order.to(whole.device)]
    rows = [row for part in parts for row in part]
    return [rows[place] for place in order.tolist()]

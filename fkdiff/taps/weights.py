"""A short mark of the weights that a run depends on, to notice others under the same name."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["weights_mark"]

_WHOLE = 2**26
"""Bytes of weights up to which all of them are read."""
_SAMPLED = 256
"""Numbers of each tensor, at least, that are read of larger ones."""


def weights_mark(owners: Iterable[Any]) -> str:
    """A digest of names, shapes, types and values of all weights: other weights, another mark.

    Of more than 64 MB, some 256 numbers of each tensor are read, evenly spread: training moves
    them all, but a change of a few numbers between them goes unnoticed.

    Arguments:
        owners: Pipelines, terms, networks or anything else; what holds no weights counts for
            nothing.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> before = weights_mark([net])
        >>> with torch.no_grad():
        ...     net.bias[1] += 1
        >>> before == weights_mark([net]), len(before)
        (False, 16)
    """
    found = [item for i, owner in enumerate(owners) for item in _weights(str(i), owner)]
    whole = sum(tensor.numel() * tensor.element_size() for _, tensor in found) <= _WHOLE
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(found, key=lambda item: item[0]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(_values(tensor, whole))
    return digest.hexdigest()


def _weights(name: str, owner: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights of a network, or of the networks that a pipeline or a term holds."""
    if isinstance(owner, torch.nn.Module):
        for kind in (owner.named_parameters, owner.named_buffers):
            for own, tensor in kind():
                yield f"{name}.{own.replace('_orig_mod.', '')}", tensor  # compiled or not
        return
    parts = getattr(owner, "components", None)
    parts = parts if isinstance(parts, dict) else getattr(owner, "__dict__", {})
    for own, part in parts.items():
        if isinstance(part, torch.nn.Module) or isinstance(
            getattr(part, "components", None), dict
        ):
            yield from _weights(f"{name}.{own}", part)


def _values(tensor: Tensor, whole: bool) -> bytes:
    if tensor.is_meta:  # offloaded: only its shape is here
        return b""
    step = 1 if whole else max(1, tensor.numel() // _SAMPLED)
    values = tensor.detach().flatten()[::step].cpu().contiguous()
    return values.view(torch.uint8).numpy().tobytes()

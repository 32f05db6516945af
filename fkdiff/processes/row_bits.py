"""Rows of tensors: those that others continue, and as bits that travel between processes."""

import hashlib

import torch
from torch import Tensor

__all__ = ["bits_of", "by_row", "marks_of", "of_rows", "picked_rows", "rows_from"]


def marks_of(values: Tensor) -> Tensor:
    """64 bits that tell rows (n, *) apart, shape (n,), int64."""
    rows = by_row(values, len(values)).cpu().numpy()
    found = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return torch.frombuffer(bytearray(found), dtype=torch.int64)


def by_row(values: Tensor, n: int) -> Tensor:
    """The bits of all copies of each row, shape (n, bytes), uint8, of values (c n, *)."""
    rows = values.detach().reshape(len(values) // n, n, -1).transpose(0, 1)
    return rows.reshape(n, -1).contiguous().view(torch.uint8)


def of_rows(bits: Tensor, like: Tensor) -> Tensor:
    """The inverse of `by_row`, in the shape, type and place of `like`."""
    n = len(bits)
    rows = bits.to(like.device).contiguous().view(like.dtype).reshape(n, len(like) // n, -1)
    return rows.transpose(0, 1).reshape(like.shape)


def bits_of(values: Tensor) -> Tensor:
    """The bits of a tensor, shape (bytes,), uint8, on the CPU."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8)


def rows_from(data: Tensor, like: Tensor) -> Tensor:
    """Bytes as rows of the shape and type of `like` (n, *)."""
    return data.clone().view(like.dtype).reshape(-1, *like.shape[1:])


def picked_rows(values: Tensor, parents: Tensor, n: int) -> Tensor:
    """Rows that others continue where all are here: of each of the copies (c n, *)."""
    wide = torch.cat([parents + start for start in range(0, len(values), n)])
    return values[wide.to(values.device)]

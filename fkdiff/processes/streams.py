"""Random streams that don't depend on batching: one per (seed, prompt, slot).

A `Seed` is a number for all prompts, or one for each of them, whose streams are then those of the
prompt drawn alone: the same in any company.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["RowNoise", "Seed", "prompt_generators", "row_streams", "slot_generators", "stream"]

Seed: TypeAlias = int | Sequence[int]


def stream(seed: Seed, *key: int | str) -> torch.Generator:
    """A CPU generator that depends on `seed` and `key` alone.

    Example:
        >>> stream(0, 1, 2).initial_seed() == stream(0, 1, 2).initial_seed()
        True
        >>> stream(0, 1, 2).initial_seed() == stream(0, 2, 1).initial_seed()
        False
    """
    text = "/".join(str(part) for part in (seed, *key)).encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(number >> 1)


def slot_generators(seed: Seed, prompts: int, particles: int) -> list[torch.Generator]:
    """One generator for each of the P * K slots, prompt-major; resampling never moves them.

    Example:
        >>> apart = slot_generators((5, 3), 2, 4)
        >>> apart[6].initial_seed() == slot_generators(3, 1, 4)[2].initial_seed()
        True
    """
    return [stream(*_origin(seed, p), k) for p in range(prompts) for k in range(particles)]


def prompt_generators(seed: Seed, prompts: int, purpose: str) -> list[torch.Generator]:
    """One generator for each prompt, for draws such as resampling, apart from the noise."""
    return [stream(*_origin(seed, p), purpose) for p in range(prompts)]


def row_streams(
    seed: Seed, particles: int, rows: Iterable[int], purpose: str, index: int
) -> list[torch.Generator]:
    """One generator for each prompt-major row at a transition, apart from those of the noise."""
    return [
        stream(*_origin(seed, row // particles), row % particles, purpose, index) for row in rows
    ]


def _origin(seed: Seed, prompt: int) -> tuple[int, int]:
    """Seed and number of a prompt, for its streams."""
    return (seed, prompt) if isinstance(seed, int) else (seed[prompt], 0)


class RowNoise:
    """Standard normal noise, row i from generator i, drawn some transitions ahead.

    Thousands of small rows would spend their time on calls of the generators. How far ahead
    depends on a row's size alone, so that the bits don't depend on the number of rows.

    Arguments:
        generators: N, one a row.
        shape: Shape of a row.
        dtype: Type of the draws.

    Example:
        >>> noise = RowNoise(slot_generators(0, 1, 3), (2,), torch.float64)
        >>> first, second = noise.draw(), noise.draw()
        >>> first.shape, torch.equal(first, second)
        (torch.Size([3, 2]), False)
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._generators, self._shape, self._dtype = generators, shape, dtype
        self._ahead = max(1, min(64, 65536 // max(1, math.prod(shape))))
        self._block = torch.empty(0)
        self._used = self._ahead

    def draw(self) -> Tensor:
        """Noise for one transition, shape (N, *shape), on the CPU."""
        if self._used == self._ahead:
            shape = (self._ahead, *self._shape)
            rows = [torch.randn(shape, generator=g, dtype=self._dtype) for g in self._generators]
            self._block, self._used = torch.stack(rows, 1), 0
        self._used += 1
        return self._block[self._used - 1]

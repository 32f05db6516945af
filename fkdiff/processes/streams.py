"""Random streams that don't depend on batching: one per (seed, prompt, slot or block of slots).

A `Seed` is a number for all prompts, or one for each of them, whose streams are then those of the
prompt drawn alone: the same in any company.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Seed",
    "SlotNoise",
    "copies",
    "drawn_seed",
    "drawn_seeds",
    "generators_in",
    "prompt_generators",
    "row_streams",
    "slot_generators",
    "stream",
]

SMALL = 64
"""Numbers of a slot below which slots share generators; no pipeline has states that small."""

BLOCK = 1024
"""Numbers that a shared generator draws at once."""

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


def copies(generators: Iterable[torch.Generator]) -> list[torch.Generator]:
    """Generators that draw what these are about to draw, and leave them where they are.

    Example:
        >>> kept = stream(0)
        >>> bool(torch.rand((), generator=copies([kept])[0]) == torch.rand((), generator=kept))
        True
    """
    return [generator.clone_state() for generator in generators]


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


def drawn_seed(generator: torch.Generator) -> int:
    """The seed that a generator stands for: what it was seeded with, or a number that it draws.

    The first holds where nothing was drawn from it yet. Either way it goes on by a draw, so that
    its next run is another one.

    Example:
        >>> generator = torch.Generator().manual_seed(7)
        >>> drawn_seed(generator), drawn_seed(generator) == 7
        (7, False)
    """
    place, start = generator.device, generator.initial_seed()
    fresh = torch.Generator(place).manual_seed(start).get_state()
    untouched = torch.equal(fresh, generator.get_state())
    number = torch.randint(2**63 - 1, (), generator=generator, device=place).item()
    return start if untouched else int(number)


def drawn_seeds(generator: Any, prompts: int) -> Seed | None:
    """Seeds of the clouds of a call: one number for all, or one a prompt from as many generators.

    Arguments:
        generator: One, a list of them, or None for a fresh seed.
        prompts: P.

    Raises:
        TypeError: If it is something else.
        ValueError: If a list holds another number of them.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return None if generator is None else drawn_seed(generator)
    listed = generators_in(generator)
    if len(listed) not in (1, prompts):
        raise ValueError(
            f"generator must be one, or a list of one for each of {prompts} sequences, "
            f"got {len(listed)}"
        )
    seeds = [drawn_seed(each) for each in listed]
    return seeds[0] if len(seeds) == 1 else seeds


def generators_in(given: Any) -> list[torch.Generator]:
    """Generators in what a call was given as one: itself, or a list.

    Raises:
        TypeError: If it is or holds something else.
    """
    listed = list(given) if isinstance(given, list | tuple) else [given]
    for each in listed:
        if not isinstance(each, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator or a list of them, got {type(each).__name__}"
            )
    return listed


class SlotNoise:
    """Draws standard normal noise of each slot, the same bits whichever process draws it.

    A slot of `SMALL` numbers or more has the generator of `slot_generators`, as in a pipeline. A
    generator costs microseconds and 5 kB, so smaller slots that are next to each other share one:
    blocks of about `BLOCK` numbers, each with a stream of its own. A draw takes the whole block,
    also where some of its slots are elsewhere or don't exist. So a slot's noise depends neither
    on the number of slots nor on which of them are here.

    Arguments:
        seed: One for all prompts or one for each.
        prompts: P.
        slots: Slots of each prompt that are here, k of them.
        shape: Shape of the noise of one slot.
        dtype: Type of the draws.
        purpose: Keeps streams apart that one run draws from; empty for the noise of its steps.

    Example:
        >>> noise = SlotNoise(0, 1, range(3), (2,), torch.float64)
        >>> first, second = noise.draw(), noise.draw()
        >>> first.shape, torch.equal(first, second)
        (torch.Size([3, 2]), False)
        >>> torch.equal(first[1:], SlotNoise(0, 1, range(1, 3), (2,), torch.float64).draw())
        True
    """

    def __init__(
        self,
        seed: Seed,
        prompts: int,
        slots: range,
        shape: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        purpose: str = "",
    ) -> None:
        self._prompts, self._shape, self._dtype = prompts, shape, dtype
        numbers = max(1, math.prod(shape))
        self._size = 1 if numbers >= SMALL else BLOCK // numbers
        blocks = range(slots.start // self._size, -(-slots.stop // self._size))
        start = blocks.start * self._size
        self._here = slice(slots.start - start, slots.stop - start)
        key = ((purpose,) if purpose else ()) + (("block",) if self._size > 1 else ())
        self._generators = [
            stream(*_origin(seed, prompt), block, *key)
            for prompt in range(prompts)
            for block in blocks
        ]

    def draw(self) -> Tensor:
        """Noise for one transition, shape (P k, *shape), prompt-major, on the CPU."""
        drawn = torch.empty(len(self._generators), self._size, *self._shape, dtype=self._dtype)
        for block, generator in zip(drawn.unbind(0), self._generators, strict=True):
            block.normal_(generator=generator)
        return drawn.view(self._prompts, -1, *self._shape)[:, self._here].flatten(0, 1)

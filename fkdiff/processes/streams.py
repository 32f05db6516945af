"""Random streams that don't depend on batching: one per (seed, prompt, slot)."""

import hashlib

import torch

__all__ = ["prompt_generators", "slot_generators", "stream"]


def stream(seed: int, *key: int | str) -> torch.Generator:
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


def slot_generators(seed: int, prompts: int, particles: int) -> list[torch.Generator]:
    """One generator for each of the P * K slots, prompt-major; resampling never moves them."""
    return [stream(seed, p, k) for p in range(prompts) for k in range(particles)]


def prompt_generators(seed: int, prompts: int, purpose: str) -> list[torch.Generator]:
    """One generator for each prompt, for draws such as resampling, apart from the noise."""
    return [stream(seed, p, purpose) for p in range(prompts)]

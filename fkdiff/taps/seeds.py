"""Where the random streams of a call come from: a seed, or generators of the user's own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fkdiff.processes.streams import Seed, drawn_seed, generators_in, slot_generators

__all__ = ["Seeds"]


@dataclass(frozen=True)
class Seeds:
    """What a call's streams are made from; the state of a generator is a seed.

    Arguments:
        number: Seed of streams that have none of their own; None for a fresh one.
        several: Seeds, one for each prompt or one for each particle of each prompt.
        own: The user's generators, one for each particle of each prompt, drawn from as they are.
    """

    number: int | None
    several: tuple[int, ...] | None = None
    own: tuple[torch.Generator, ...] | None = None

    @classmethod
    def of(
        cls, seed: Seed | None, generator: Any, prompts: int, particles: int, shared: bool
    ) -> "Seeds":
        """Read a run's seed, or the call's generators, which go on from where they are.

        Arguments:
            seed: The user's; it comes before generators.
            generator: One, or a list of them.
            prompts: P.
            particles: K.
            shared: Whether processes share the particles.

        Raises:
            TypeError: If `generator` holds something else.
            ValueError: If there are too few or too many.
        """
        if seed is None and isinstance(generator, torch.Generator):
            return cls(drawn_seed(generator))
        if seed is None and generator is not None:
            listed = generators_in(generator)
            _check_number("generator", len(listed), prompts, particles)
            if len(listed) == prompts * particles:
                return cls._of_rows(listed, shared)
            seeds = [drawn_seed(each) for each in listed]
            seed = seeds[0] if len(seeds) == 1 else seeds
        if seed is None or isinstance(seed, int):
            return cls(seed)
        _check_number("number", len(seed), prompts, particles)
        return cls(seed[0], tuple(seed))

    @classmethod
    def _of_rows(cls, generators: list[torch.Generator], shared: bool) -> "Seeds":
        if shared:
            raise ValueError(
                f"generator must not be one for each particle where processes share them, since "
                f"each process draws for its own alone, got {len(generators)}; give seed=[...] to "
                f"steer instead"
            )
        return cls(_digest(generators), own=tuple(generators))

    def apart(self, prompts: int) -> bool:
        """Whether each prompt has a seed of its own."""
        return self.several is not None and len(self.several) == prompts

    def streams(self, seed: Seed, prompts: int, particles: int) -> list[torch.Generator]:
        """A generator for each row of the run, prompt-major.

        Arguments:
            seed: The run's: one for all, or one for each prompt.
            prompts: P.
            particles: K.
        """
        if self.own is not None:
            return list(self.own)
        if self.several is None or self.apart(prompts):
            return slot_generators(seed, prompts, particles)
        return [slot_generators(each, 1, 1)[0] for each in self.several]

    @property
    def settings(self) -> dict[str, Any]:
        """What a record says of seeds beside the one number."""
        if self.own is not None:
            return {"generators": "one for each particle, given to the call"}
        return {} if self.several is None else {"seeds": [*self.several]}


def _check_number(what: str, found: int, prompts: int, particles: int) -> None:
    """Refuse seeds or generators that are neither by prompt nor by particle."""
    if found in (prompts, prompts * particles) or (what == "generator" and found == 1):
        return
    name = "seed" if what == "number" else what
    raise ValueError(
        f"{name} must be one {what}, one for each prompt ({prompts}) or one for each "
        f"particle of each prompt ({prompts * particles}), got {found} {what}s"
    )


def _digest(generators: Sequence[torch.Generator]) -> int:
    """A number for streams beside the rows' own, which must be drawn from by nothing else."""
    digest = hashlib.blake2b(digest_size=8)
    for generator in generators:
        digest.update(generator.get_state().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1

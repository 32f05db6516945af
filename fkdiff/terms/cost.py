"""What a run spends, counted where it is spent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from fkdiff.processes.shards import Shards

__all__ = ["Cost"]


@dataclass
class Cost:
    """What a run spent.

    Arguments:
        denoiser_evaluations: Rows sent through the denoiser (a CFG pair counts two).
        decodes: Rows decoded to pixels, waveforms or frames.
        reward_calls: Samples scored, by reward name.
        seconds: Wall-clock seconds by stage: `total`, `denoise`, `decode`, `reward`, `resample`;
            of this process alone, with what it spent on others and waiting for them as `exchange`.
        peak_memory_mb: Peak resident (CPU) or allocated (CUDA) memory in MB, None if unknown.
        exchanged_bytes: Bytes that processes which share a cloud got from each other.

    Example:
        >>> cost = Cost()
        >>> with cost.time("decode"):
        ...     cost.decodes += 4
        >>> sorted(cost.seconds), cost.decodes
        (['decode'], 4)
    """

    denoiser_evaluations: int = 0
    decodes: int = 0
    reward_calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    exchanged_bytes: int = 0

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the block's wall-clock seconds to `stage`, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def shares(self, prompts: int) -> list[Self]:
        """Even shares of what a run of several prompts spent, which add up to it.

        >>> [share.decodes for share in Cost(decodes=7).shares(2)]
        [4, 3]
        """

        def part(number: int, place: int) -> int:
            return number // prompts + (place < number % prompts)

        return [
            replace(
                self,
                denoiser_evaluations=part(self.denoiser_evaluations, place),
                decodes=part(self.decodes, place),
                reward_calls={k: part(v, place) for k, v in self.reward_calls.items()},
                seconds={stage: s / prompts for stage, s in self.seconds.items()},
                exchanged_bytes=part(self.exchanged_bytes, place),
            )
            for place in range(prompts)
        ]

    def over(self, shards: Shards) -> "Cost":
        """What all processes spent; seconds and memory stay those of this one."""
        if shards.peers is None or shards.peers.over:
            return self
        calls = {k: int(shards.total(self.reward_calls[k])) for k in sorted(self.reward_calls)}
        return replace(
            self,
            denoiser_evaluations=int(shards.total(self.denoiser_evaluations)),
            decodes=int(shards.total(self.decodes)),
            reward_calls=calls,
            seconds={**self.seconds, "exchange": shards.peers.seconds},
            exchanged_bytes=int(shards.total(shards.peers.received)),
        )

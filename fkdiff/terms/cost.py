"""What a run spends, counted where it is spent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Cost"]


@dataclass
class Cost:
    """What a run spent.

    Arguments:
        denoiser_evaluations: Rows sent through the denoiser (a CFG pair counts two).
        decodes: Rows decoded to pixels, waveforms or frames.
        reward_calls: Samples scored, by reward name.
        seconds: Wall-clock seconds by stage: `total`, `denoise`, `decode`, `reward`, `resample`.
        peak_memory_mb: Peak resident (CPU) or allocated (CUDA) memory in MB, None if unknown.

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

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the block's wall-clock seconds to `stage`, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

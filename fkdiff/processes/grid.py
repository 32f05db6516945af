r"""Grids of noise levels $(\alpha, \sigma)$ for loops that own their path."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from fkdiff.processes.gaussian import PREDICTIONS, Gaussian

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    r"""The noise levels of a run, from noise to data, and what its denoisers predict.

    Arguments:
        levels: Pairs (alpha, sigma), at least two; the signal-to-noise ratio rises, and sigma is
            positive but for the last, which is usually (1, 0).
        prediction: "epsilon", "v_prediction", "flow_prediction", "sample" or "score".

    Raises:
        ValueError: If the levels aren't a path, or the prediction is unknown.

    Example:
        >>> [(a, round(s, 6)) for a, s in Grid.ve(2, start=10.0, end=1.0).levels]
        [(1.0, 10.0), (1.0, 1.0), (1.0, 0.0)]
    """

    levels: tuple[tuple[float, float], ...]
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in (*PREDICTIONS, "score"):
            known = ", ".join((*PREDICTIONS, "score"))
            raise ValueError(f"prediction must be one of {known}, got {self.prediction!r}")
        if len(self.levels) < 2:
            raise ValueError(f"levels must number at least 2, got {len(self.levels)}")
        for (a, s), (a_next, s_next) in pairwise(self.levels):
            if not (a >= 0 and s > 0 and a_next > 0 and s_next >= 0 and a * s_next < a_next * s):
                raise ValueError(
                    f"levels must rise in alpha / sigma, with sigma positive but for the last, "
                    f"got {(a, s)} before {(a_next, s_next)}"
                )
        if self.levels[0][0] == 0 and self.prediction in ("epsilon", "score"):
            raise ValueError(
                f"levels must start with alpha above 0 for prediction {self.prediction!r}, which "
                f"tells no estimate in pure noise; leave out the first level"
            )

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.levels) - 1

    def transitions(self) -> Iterator[Gaussian]:
        """The transitions in turn."""
        for here, after in pairwise(self.levels):
            yield Gaussian(*here, *after)

    @classmethod
    def vp(cls, steps: int, span: float = 9.0, prediction: str = "epsilon") -> "Grid":
        r"""Variance preserving, $\alpha^2 + \sigma^2 = 1$, uniform in log-SNR, then (1, 0).

        Arguments:
            steps: Transitions, at least 1.
            span: The log-SNR runs from -span to span.
            prediction: What denoisers predict, as in `Grid`.
        """
        snr = [span * (2 * i / max(steps - 1, 1) - 1) for i in range(steps)]
        power = [1 / (1 + math.exp(-value)) for value in snr]
        levels = [(math.sqrt(p), math.sqrt(1 - p)) for p in power]
        return cls((*levels, (1.0, 0.0)), prediction)

    @classmethod
    def ve(
        cls,
        steps: int,
        start: float = 60.0,
        end: float = 2e-3,
        rho: float = 7.0,
        prediction: str = "epsilon",
    ) -> "Grid":
        r"""Variance exploding, $\alpha = 1$, in Karras' spacing, then $\sigma = 0$.

        Arguments:
            steps: Transitions, at least 1.
            start: First sigma.
            end: Last sigma before 0.
            rho: Exponent of the spacing; larger spends steps on little noise.
            prediction: What denoisers predict, as in `Grid`.
        """
        first, last = start ** (1 / rho), end ** (1 / rho)
        shares = [i / max(steps - 1, 1) for i in range(steps)]
        levels = [(1.0, (first + share * (last - first)) ** rho) for share in shares]
        return cls((*levels, (1.0, 0.0)), prediction)

    @classmethod
    def flow(cls, steps: int, shift: float = 1.0, prediction: str = "flow_prediction") -> "Grid":
        r"""Flow matching, $\alpha = 1 - \sigma$, from pure noise.

        Arguments:
            steps: Transitions, at least 1.
            shift: Above 1 spends steps on noise, as the schedulers of diffusers do.
            prediction: What denoisers predict, as in `Grid`.
        """
        sigmas = [1 - i / steps for i in range(steps + 1)]
        sigmas = [shift * s / (1 + (shift - 1) * s) for s in sigmas]
        return cls(tuple((1 - s, s) for s in sigmas), prediction)

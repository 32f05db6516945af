"""Intervals of success rates, and of the difference between two methods on the same episodes."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["paired_difference", "wilson"]

NORMAL_95 = 1.959964


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's 95% interval of a success rate.

    Example:
        >>> [round(end, 3) for end in wilson(24, 24)]
        [0.862, 1.0]
    """
    if episodes < 1:
        return 0.0, 1.0
    rate, z2 = successes / episodes, NORMAL_95**2
    middle = (rate + z2 / (2 * episodes)) / (1 + z2 / episodes)
    spread = rate * (1 - rate) / episodes + z2 / (4 * episodes**2)
    half = NORMAL_95 * math.sqrt(spread) / (1 + z2 / episodes)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(
    ours: Sequence[bool], theirs: Sequence[bool]
) -> tuple[float, tuple[float, float]]:
    """Mean difference of success on the same episodes, and its 95% interval.

    Newcombe's interval for paired proportions (method 10): it has a width also where all agree.

    Arguments:
        ours: Outcome of each episode under one method.
        theirs: Outcome of the same episodes under the other, same length.

    Raises:
        ValueError: If they don't pair up.

    References:
        | Improved confidence intervals for the difference between binomial proportions based on
        | paired data (Newcombe, 1998)

    Example:
        >>> difference, (low, high) = paired_difference([True] * 20, [True] * 20)
        >>> difference, round(low, 2), round(high, 2)
        (0.0, -0.16, 0.16)
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"ours and theirs must pair up, got {len(a)} and {len(b)} episodes")
    p, q = a.mean(), b.mean()
    (p_low, p_high), (q_low, q_high) = (wilson(int(x.sum()), len(x)) for x in (a, b))
    spread = a.std() * b.std()
    phi = float(((a - p) * (b - q)).mean() / spread) if spread > 0 else 0.0
    down = math.sqrt(_square(p - p_low, q_high - q, phi))
    up = math.sqrt(_square(p_high - p, q - q_low, phi))
    return float(p - q), (float(p - q - down), float(p - q + up))


def _square(a: float, b: float, phi: float) -> float:
    return max(a * a - 2 * phi * a * b + b * b, 0.0)

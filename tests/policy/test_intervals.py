"""Intervals cover what they promise."""

import numpy as np
import pytest

from fkdiff.policy.intervals import paired_difference, wilson


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.98])
def test_wilson_covers(rate):
    rng, count = np.random.default_rng(0), 4000
    ends = [wilson(int(k), 50) for k in rng.binomial(50, rate, count)]
    covered = np.mean([low <= rate <= high for low, high in ends])
    assert covered > 0.92  # it dips below its level for rates near 1
    assert np.mean([low <= rate + 0.2 <= high for low, high in ends]) < 0.2


def test_paired_difference_covers():
    rng, covered, narrow = np.random.default_rng(1), [], []
    for _ in range(2000):
        common = rng.random(100)
        ours, theirs = common < 0.9, (common + 0.1 * rng.random(100)) < 0.9
        value, (low, high) = paired_difference(ours.tolist(), theirs.tolist())
        covered.append(low <= 0.05 <= high)
        narrow.append(high - low)
    assert np.mean(covered) > 0.93
    independent = 2 * 1.96 * (0.9 * 0.1 / 100 + 0.85 * 0.15 / 100) ** 0.5
    assert np.mean(narrow) < 0.85 * independent


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="must pair up"):
        paired_difference([True], [True, False])

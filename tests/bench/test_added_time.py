"""What the bench of added time counts, by clocks that count calls: no time is asserted."""

import itertools
from types import SimpleNamespace

import pytest

from fkdiff.bench import added_time


@pytest.fixture(scope="module")
def pipe():
    return added_time.narrow_pipe()


def test_a_save_is_counted_at_each_step_but_the_last_of_both_runs(pipe, monkeypatch):
    """On a clock that goes on by one a look, every save takes one."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(added_time, "time", clock)
    assert added_time.keep_growth(pipe, 0, lengths=(2, 5)) == 1
    assert next(ticks) == 2 * (1 + 4)


def test_differences_are_a_step_s_and_ratios_are_ours_over_plain(pipe, monkeypatch):
    """The first pair only warms up; in the others a call of ours takes 4, the other 1."""
    times = itertools.accumulate(itertools.cycle([0, 4, 0, 1]))
    clock = SimpleNamespace(perf_counter=lambda: float(next(times)))
    monkeypatch.setattr(added_time, "time", clock)
    monkeypatch.setattr(added_time, "STEPS", 2)
    assert added_time.tap_ms(pipe, 0, 3) == 1e3 * (4 - 1) / 2
    assert added_time.sample_ratio(3, 0, 3) == 4

"""One function says which code a reward's text would run, for files, folders and the page."""

from contextlib import suppress

import pytest

from fkdiff.commands.reward_code import check_code, code_in, runs_code
from fkdiff.commands.stops import Stop
from fkdiff.terms import RewardError
from fkdiff.terms.reward_finding import load_reward

SPECS = {
    "brightness": (),
    "2 * brightness - sharpness": (),
    "none": (),
    "": (),
    "classifier:owner/model:cat": (),
    "mine.py:f": ("mine.py:f",),
    "0.5 * mine.py:f - brightness + os:getcwd": ("mine.py:f", "os:getcwd"),
    "per-frame:os:system": ("per-frame:os:system",),
    "classifier:mine.py:f": ("classifier:mine.py:f",),
    "brightness + mine.py": ("mine.py",),
}


@pytest.mark.parametrize("spec", SPECS)
def test_places_of_code(spec):
    assert code_in(spec) == SPECS[spec] and runs_code(spec) == bool(SPECS[spec])


LATE = ["minimum(evil.py:f, 1)", "evil.py:f * 1e999", "brightness - (1 + evil.py:g)", "evil.py:f"]


@pytest.mark.parametrize("spec", LATE)
def test_what_would_run_counts_as_code(spec, tmp_path, monkeypatch):
    """Also of a text that turns out to be no reward, after its code has run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\ndef f(pixels): return 0\n")
    with suppress(RewardError):
        load_reward(spec)
    assert (tmp_path / "ran").exists() and len(code_in(spec)) == 1
    with pytest.raises(Stop):
        check_code(spec, ())

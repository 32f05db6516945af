"""Particles that all have weight zero end a run in one line, and what was made is kept."""

import pytest

from fkdiff import steer
from fkdiff.commands import drawing
from fkdiff.commands.stops import Stop
from fkdiff.smc import WeightsError
from fkdiff.terms import Tilt
from tests.taps.setups import CALL, shared


def test_no_weight_left_is_one_line_with_exit_code_1(monkeypatch, capsys):
    tiny = shared("sd")
    steered = steer(tiny.pipe, Tilt(lambda x: [-float("inf")] * len(x)), particles=2, seed=0)
    call = {**CALL, **tiny.call}
    with pytest.raises(WeightsError, match="all particles of prompt 0 have weight zero"):
        steered(**call)
    job = type("Job", (), {"steered": steered, "call": call, "request": None})()
    monkeypatch.setattr(drawing, "sources_of", lambda request: {})
    monkeypatch.setattr(drawing, "_kept", lambda job: "; what was made is in runs/1")
    with pytest.raises(Stop, match="have weight zero; .*what was made is in runs/1") as stop:
        drawing._steered(job)
    assert stop.value.code == 1 and "Traceback" not in capsys.readouterr().err

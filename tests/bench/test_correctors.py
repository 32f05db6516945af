"""The bench of correctors: its fields, its exact answers, and going on from a stopped run."""

import json
import math

import pytest
import torch

from fkdiff.bench import correctors
from fkdiff.bench.mixtures import Mixture, cells, quadrature
from fkdiff.cli import main
from tests.corrected import Q1, Q2
from tests.corrected import quadrature as by_functions

pytestmark = pytest.mark.filterwarnings("ignore:Correct")


def test_exact_answers_are_those_of_the_tests_own_mixtures():
    pool = [(-0.75, correctors.Q1), (2.25, correctors.Q2)]
    edges, shares, log_z = quadrature(pool, torch.sin)
    exact = by_functions([(-0.75, Q1), (2.25, Q2)], torch.sin)
    middle = (edges[1:] + edges[:-1]) / 2
    assert math.exp(log_z) == pytest.approx(float(exact[0]), rel=1e-3)
    assert float(shares @ middle) == pytest.approx(float(3 * exact[1] / exact[0]), abs=0.02)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(correctors.Q1.score(x, 0.6, 0.8), Q1.score(x, 0.6, 0.8))
    mean, variance = Mixture((0.5, 0.5), (-1.0, 3.0), (1.0, 1.0)).moments
    assert (mean, variance) == (1.0, 5.0)


def test_cells_hold_the_weights():
    edges = torch.linspace(-1, 1, 5, dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = cells(torch.tensor([-0.9, -0.2, 0.6, 7.0]).double(), weights, edges)
    assert found.tolist() == [0.1, 0.2, 0.0, 0.3]


def test_the_command_measures_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    kept = {name: correctors.CASES[name] for name in ("average", "product_tilt")}
    monkeypatch.setattr(correctors, "CASES", kept)
    words = ["bench", "correctors", "--quick", "--resume", str(tmp_path / "runs.jsonl")]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    first = json.loads((tmp_path / "a.json").read_text())
    cases = {"average", "product_tilt", "product_tilt_nocontrol"}
    assert first["tv"].keys() == {f"{path}_{name}" for path in ("vp", "ve") for name in cases}
    for name in first["tv"]:
        assert first["tv"][name].keys() == {"weighted", "unweighted", "floor"}
        assert 0.5 < first["z_ratio"][name] < 2 and first["z_se"][name] >= 0
    tilted = first["tv"]["vp_product_tilt"]
    assert tilted["weighted"] < 0.3 * tilted["unweighted"]

    def again(*_):
        raise AssertionError("measured twice")

    monkeypatch.setattr(correctors, "_measure", again)
    assert main([*words, "--json", str(tmp_path / "b.json")]) == 0
    second = json.loads((tmp_path / "b.json").read_text())
    assert second["tv"] == first["tv"]
    assert main(["bench", "overhead", "--resume", "x"]) == 2
    assert "--resume can't be used with overhead" in capsys.readouterr().err

"""`fkdiff policy`: what it refuses, and a short run of each part."""

import json
import sys

import pytest

from fkdiff.policy import Calibration

try:
    import metaworld  # noqa: F401
except ImportError:
    metaworld = None
extra = pytest.mark.skipif(metaworld is None, reason="needs: pip install 'fkdiff[policy]'")


@pytest.mark.parametrize("part", ["eval", "calibrate"])
def test_help_teaches_by_example(fkdiff, part):
    code, out, _ = fkdiff("policy", part, "--help")
    assert code == 0 and "Example: fkdiff policy" in out


@extra
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "reach-v9"], "task must be one of pick-place-v3"),
        (["--method", "ddim7"], "--method must be one of ddpm100"),
        (["--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["--replan", "17"], "at most the horizon 16, got 17"),
        (["--replan", "3"], "make one: fkdiff policy calibrate --executed 3"),
        (["--model", "emoji"], "--model emoji is a pipeline, it decides no actions"),
        (["--model", "nowhere"], "neither a bundled policy (metaworld) nor a folder"),
        (["--calibration", "none.json"], "--calibration: "),
    ],
)
def test_refused_before_anything_is_written(fkdiff, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    code, _, err = fkdiff("policy", "eval", *words)
    assert code == 2 and told in err
    assert not list(tmp_path.iterdir())


def test_missing_extra_is_named(fkdiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("metaworld", "metaworld.env_dict", "metaworld.policies"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = fkdiff("policy", "eval")
    assert code == 2 and "pip install 'fkdiff[policy]'" in err
    assert not list(tmp_path.iterdir())


@extra
def test_eval_leaves_a_report(fkdiff, tmp_path):
    words = ["--task", "drawer-open-v3", "--method", "rti_auto", "--method", "ddim2", "--no-gif"]
    words += ["--episodes", "1", "--latency", "6", "--out", tmp_path / "run"]
    code, out, err = fkdiff("policy", "eval", *words)
    assert code == 0, err
    assert "rti_auto" in out and "K' = " in out and "success 1/1" in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3 and "rti_auto minus ddim2" in page
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert len(kept["methods"]["rti_auto"]["times"]) == 6
    assert kept["methods"]["rti_auto"]["outcomes"] == [True]


@extra
def test_calibrate_writes_what_eval_reads(fkdiff, tmp_path):
    file = tmp_path / "two.json"
    words = ["--task", "drawer-open-v3", "--episodes", "1", "--executed", "2", "--draws", "2"]
    code, out, err = fkdiff("policy", "calibrate", *words, "--out", file)
    assert code == 0, err
    assert Calibration.load(file).executed == 2 and "of 100: predicted remaining error" in out
    code, _, err = fkdiff("policy", "calibrate", "--tolerance", "0", "--out", file)
    assert code == 2 and "--tolerance must be positive" in err

"""`fkdiff generate`: what it leaves, what it refuses, what it keeps when it fails."""

import json
import shlex

import pytest
from safetensors.torch import load_file

from fkdiff.commands import drawing
from fkdiff.report import read_png

SMALL = ("--height", 32, "--width", 32, "--steps", 3, "--particles", 3)


def written(folder):
    return sorted(path.name for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_leaves_a_run_and_the_command_that_repeats_it(fkdiff, here, model):
    code, out, _ = fkdiff(
        *("generate", "a cat", "a <b>dog</b>", "--model", model, "--reward", "mine.py:bright"),
        *(*SMALL, "--scale", 50, "--window", "0,1", "--ess", 1, "--seed", 3, "--out", "run"),
        *("--negative-prompt", "ugly", "--select", "sample", "--images", 2, "--plain"),
    )
    assert code == 0
    assert "run/report.html" in out and "from fkdiff import Resample, Tilt, steer" in out
    run = here / "run"
    names = {"report.html", "result.json", "metrics.json", "result.safetensors", "images"}
    assert {path.name for path in run.iterdir()} == names
    assert [p.name for p in sorted((run / "images").iterdir())] == [
        f"{i:04}.png" for i in range(6)
    ]
    page = (run / "report.html").read_text()
    assert "Plain: the pipeline as it is" in page and "a &lt;b&gt;dog&lt;/b&gt;" in page
    about = read_png(run / "images" / "0003.png")
    assert about["prompt"] == "a <b>dog</b>" and about["call"]["negative_prompt"] == "ugly"
    latents = load_file(run / "result.safetensors")["latents"]
    words = shlex.split(about["command"])
    assert words[0] == "fkdiff"
    again = [{"run": "again", "--plain": "--no-plain"}.get(word, word) for word in words[1:]]
    assert fkdiff(*again)[0] == 0
    assert load_file(here / "again" / "result.safetensors")["latents"].equal(latents)


def test_the_bundled_model_brings_its_own_settings(fkdiff, here, bundled):
    code, _, error = fkdiff("generate", "a cat", "--reward", "mine.py:bright", "--particles", 2)
    assert code == 0, error
    result = json.loads((here / "runs" / "a-cat" / "result.json").read_text())
    assert result["settings"]["call"]["num_inference_steps"] == 3
    assert result["settings"]["call"]["guidance_scale"] == 2.0
    assert "Plain: the pipeline" in (here / "runs" / "a-cat" / "report.html").read_text()


REFUSALS = {
    "an unknown reward": (["--reward", "brightnes"], "did you mean brightness"),
    "a formula that isn't one": (["--reward", "1 +"], "1 +"),
    "a reward file with a syntax error": (["--reward", "syntax.py:bright"], "line 1"),
    "no such function": (["--reward", "mine.py:dark"], "has no reward 'dark'; it has bright"),
    "an unknown monitor": (["--monitor", "nothing"], "unknown reward 'nothing'"),
    "no particles": (["--particles", "0"], "--particles must be at least 1, got 0"),
    "negative steps": (["--steps", "-3"], "--steps must be at least 1, got -3"),
    "more images than particles": (["--images", "9"], "--images must be at most --particles"),
    "a window that ends too soon": (["--window", "0.9,0.2"], "--window must be two fractions"),
    "a window in words": (["--window", "early"], "--window must be two fractions"),
    "an ESS above one": (["--ess", "3"], "--ess must be in [0, 1], got 3"),
    "an unknown potential": (["--potential", "best"], "--potential must be one of difference"),
    "an unknown selection": (["--select", "one"], "--select must be one of best"),
    "an unknown scheme": (["--resample", "fair"], "scheme must be one of"),
    "an endless scale": (["--scale", "inf"], "--scale must be a finite number"),
    "an empty prompt": (["--seed", "1", " "], "PROMPT must not be empty"),
    "a folder without a pipeline": (["--model", "."], "it has no model_index.json"),
    "no model at all": (["--model", "./nowhere/at/all"], "no bundled model, no folder"),
    "a misspelt model": (["--model", "emojis"], "did you mean emoji?"),
    "a file as folder": (["--out", "mine.py"], "must be a folder"),
    "a folder below a file": (["--out", "mine.py/run"], "must be a folder"),
    "letters for a number": (["--particles", "many"], "'--particles'"),
    "an option that isn't one": (["--particle", "4"], "--particle"),
    "a device that isn't one": (["--device", "warp"], "--device warp can't be used"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_before_anything_is_written(fkdiff, here, model, case):
    words, says = REFUSALS[case]
    before = written(here)
    base = ["--model", model, "--reward", "brightness", "--out", "runs/new"]
    code, out, error = fkdiff("generate", "a cat", *base, *words)
    assert (code, out) == (2, "")
    assert says in error
    assert error.startswith("fkdiff: ") and error.count("\n") == 1, error
    assert written(here) == before


def test_refuses_a_word_that_the_bundled_model_never_saw(fkdiff, here, bundled):
    before = written(here)
    code, out, error = fkdiff("generate", "a kat on a blue background")
    assert (code, out) == (2, "")
    assert "'kat'" in error and "cat" in error and error.count("\n") == 1
    assert written(here) == before


def test_refuses_a_model_without_reward(fkdiff, here, model):
    code, _, error = fkdiff("generate", "a cat", "--model", model)
    assert code == 2 and "--reward must be given" in error


def test_refuses_a_folder_that_nobody_can_write_to(fkdiff, here, model):
    code, _, error = fkdiff("generate", "a cat", "--model", model, "--out", "/proc/fkdiff/run")
    assert code == 2 and error.count("\n") == 1


FAILURES = {
    "nan_later": (1, ["nan_later", "NaN", "step 2 of 3", "particle"]),
    "hungry": (1, ["out of memory", "fewer --particles"]),
    "interrupted": (130, ["interrupted"]),
}


@pytest.mark.parametrize("reward", FAILURES)
def test_keeps_what_was_made_when_it_fails(fkdiff, here, model, reward):
    expected, says = FAILURES[reward]
    words = ["--reward", f"mine.py:{reward}", "--window", "0,1", "--out", "run", *SMALL]
    code, _, error = fkdiff("generate", "a cat", "--model", model, *words)
    last = error.splitlines()[-1]
    assert code == expected
    assert all(word in last for word in says), last
    if reward == "hungry":  # failed at the first reward: there is nothing to keep
        return
    assert "run/report.html" in last
    result = json.loads((here / "run" / "result.json").read_text())
    assert result["complete"] is False and result["transitions"] >= 1
    assert "Incomplete run" in (here / "run" / "report.html").read_text()


def test_names_a_reward_of_the_wrong_shape(fkdiff, here, model):
    words = ["--reward", "mine.py:pair", "--window", "0,1", *SMALL]
    code, _, error = fkdiff("generate", "a cat", "--model", model, *words)
    assert code == 1 and "pair" in error and "step 1 of 3" in error


def test_shows_where_the_code_of_a_reward_failed(fkdiff, here, model):
    words = ["--reward", "mine.py:broken", "--window", "0,1", *SMALL]
    code, _, error = fkdiff("generate", "a cat", "--model", model, *words)
    assert code == 1 and "ZeroDivisionError" in error and "mine.py" in error


def test_does_not_swallow_a_bug(fkdiff, here, model, monkeypatch):
    def bug(*_):
        raise AttributeError("a bug")

    monkeypatch.setattr(drawing, "_plain", bug)
    with pytest.raises(AttributeError, match="a bug"):
        fkdiff("generate", "a cat", "--model", model, "--reward", "none", *SMALL)

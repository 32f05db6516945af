"""`fkdiff generate`: what it leaves, what it refuses, what it keeps when it fails."""

import json
import shlex
import shutil

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
    names = {"report.html", "result.json", "metrics.json", "result.safetensors", "images"} | {
        "beside.png"
    }
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
    words, before = ["--reward", "mine.py:pair", "--window", "0,1", *SMALL], list(here.iterdir())
    code, _, error = fkdiff("generate", "a cat", "--model", model, *words)
    assert code == 2 and "'pair'" in error and "got shape (2, 2)" in error
    assert list(here.iterdir()) == before


@pytest.mark.parametrize("option", ["--reward", "--monitor"])
def test_a_reward_of_pil_images_is_refused_with_the_remedy(fkdiff, here, model, option):
    """Tried before anything is drawn: nothing is written, not even a folder."""
    code = "def grey(images):\n    return [i.convert('L').getpixel((0, 0)) for i in images]\n"
    (here / "pil.py").write_text(code)
    before = sorted(here.iterdir())
    other = {"--reward": [], "--monitor": ["--reward", "mine.py:bright"]}[option]
    for more in ((), ("--plain",), ("--save-every", 1)):
        words = (*other, option, "pil.py:grey", *SMALL, *more, "--out", "new")
        code, _, error = fkdiff("generate", "a cat", "--model", model, *words)
        assert code == 2 and "'grey'" in error and 'inputs="pil"' in error
        assert "(2, 3, 32, 32)" in error and sorted(here.iterdir()) == before


@pytest.mark.parametrize("how", ["gone", "empty"])
@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_a_model_that_lacks_a_part_is_refused(fkdiff, here, model, part, how):
    """Without the check a tokenizer of no files is made up, and the run ends in a traceback."""
    lacking = shutil.copytree(model, here / "lacking")
    shutil.rmtree(lacking / part)
    if how == "empty":
        (lacking / part).mkdir()
    words = ("--model", "lacking", "--reward", "none", *SMALL, "--out", "new")
    code, _, error = fkdiff("generate", "a cat", *words)
    assert code == 2 and len(error.splitlines()) == 1 and "--model lacking" in error
    assert not (here / "new").exists()


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

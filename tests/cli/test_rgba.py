"""`fkdiff rgba` and `fkdiff paste`: files with alpha, reports, and what is refused."""

import re

import numpy as np
import pytest
from PIL import Image

from fkdiff.report import read_png


def test_a_cut_out_is_written_reported_and_pasted(fkdiff, here, bundled):
    code, out, error = fkdiff("rgba", "a cat", "--background", "a blue background", "--steps", 2)
    assert code == 0, error
    with Image.open(here / "a-cat.png") as image:
        assert image.mode == "RGBA" and image.size == (16, 16)
    about = read_png(here / "a-cat.png")
    assert about["prompt"] == "a cat on a blue background"
    assert "Cutout(" in about["python"] and "from fkdiff import Cutout" in about["python"]
    assert about["command"].startswith("fkdiff rgba 'a cat' --background")
    page = (here / "runs" / "a-cat" / "report.html").read_text()
    assert "heuristic" in page and "repeating-conic-gradient" in page  # a checkerboard behind
    program = re.search(r"from diffusers.*?\n\n.*?\.save\([^)]*\)", out, re.DOTALL)
    assert program is not None
    exec(compile(program[0].replace("runs/a-cat", "again"), "told", "exec"), {})
    one, other = (
        np.asarray(Image.open(here / folder / "images" / "0000.png"))
        for folder in ("runs/a-cat", "again")
    )
    assert np.array_equal(one, other)
    Image.new("RGB", (32, 32), "white").save("white.png")
    code, out, _ = fkdiff("paste", "white.png", "a-cat.png", "--at", "0.5,0.6", "--scale", 0.4)
    with Image.open("pasted.png") as pasted:
        assert code == 0 and pasted.size == (32, 32)


def test_several_pictures_are_steered_and_numbered(fkdiff, here, bundled):
    words = ["--images", 2, "--reward", "uncropped", "--particles", 3, "--steps", 3]
    code, _, error = fkdiff(
        "rgba", "a cat", "a pizza", *words, "--out", "x.png", "--background", "a blue background"
    )
    assert code == 0, error
    assert sorted(p.name for p in here.glob("x*.png")) == [
        "x-2.png",
        "x-3.png",
        "x-4.png",
        "x.png",
    ]
    assert read_png(here / "x-3.png")["prompt"] == "a pizza on a blue background"
    assert "uncropped" in read_png(here / "x.png")["rewards"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a cat", "--box", "0,0,2,1"], "inside the image"),
        (["a cat", "--box", "0,0"], "--box must be LEFT,TOP,RIGHT,BOTTOM"),
        (["a cat", "--feather", "-1"], "feather must be"),
        (["a cat", "--method", "magic"], "--method must be one of default"),
        (["a cat", "--out", "cat.jpg"], "--out must be a .png"),
        (["a zebra", "--background", "a blue background"], "zebra"),
        (["a cat", "--subject", "pizza", "--background", "a blue background"], "subject must be"),
        (["a cat", "--images", "0"], "--images must be at least 1"),
    ],
)
def test_bad_requests_are_refused_and_write_nothing(fkdiff, here, bundled, words, says):
    before = sorted(here.iterdir())
    code, out, error = fkdiff("rgba", *words, "--steps", 2)
    assert (code, out) == (2, "") and says in error and error.count("\n") == 1
    assert sorted(here.iterdir()) == before


def test_a_missing_extra_is_named(fkdiff, here, bundled, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = fkdiff("rgba", "a cat", "--method", "knn")
    assert code == 2 and "pip install 'fkdiff[matting]'" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.png", "cut.png"], "gone.png doesn't exist"),
        (["text.png", "cut.png"], "can't be read as a picture"),
        (["white.png", "white.png"], "alpha channel"),
        (["white.png", "cut.png", "--at", "x"], "--at must be X,Y"),
        (["white.png", "cut.png", "--at", "9,9"], "at must put"),
        (["white.png", "cut.png", "--out", "x.txt"], "--out must end like a picture"),
    ],
)
def test_bad_pastes_are_refused(fkdiff, here, words, says):
    Image.new("RGB", (8, 8)).save("white.png")
    Image.new("RGBA", (8, 8)).save("cut.png")
    (here / "text.png").write_text("no picture")
    code, _, error = fkdiff("paste", *words)
    assert code == 2 and says in error and error.count("\n") == 1

"""Files of strangers, and outputs that nobody reads: one line, nothing lost, nothing turned."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
from PIL import Image, PngImagePlugin

from fkdiff.commands.resuming import finished
from fkdiff.files import json_of
from fkdiff.policy.calibration import Calibration
from fkdiff.report.loading import load
from fkdiff.report.png import encode_png

DEPTHS = (65, 450, 800, 5000, 100_000)  # Python's own reader gives up between the last three


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["told", "json"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_picture_with_deep_settings_is_refused(fkdiff, tmp_path, depth, words):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("fkdiff", f'{{"prompt": {nested(depth)}}}')
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png", pnginfo=info)
    code, out, error = fkdiff("show", tmp_path / "p.png", *words)
    assert (code, out) == (2, "") and error.count("\n") == 1
    assert "aren't valid JSON" in error


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_deep_json_is_refused_by_whatever_reads_it(tmp_path, depth, kind):
    text = nested(depth) if kind == "lists" else '{"a":' * depth + "1" + "}" * depth
    with pytest.raises(ValueError, match="nested at most 64 deep"):
        json_of(text)
    for name in ("result.json", "metrics.json", "report.html"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"can't be read: .*nested at most 64 deep"):
        load(tmp_path)
    assert finished(tmp_path) is None
    with pytest.raises(ValueError, match="isn't a calibration"):
        Calibration.load(tmp_path / "result.json")


def test_what_is_64_deep_is_read():
    assert json_of(nested(64)) and json_of('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


MEASURED = asdict(Calibration((0.1,), (0.2,), 1, 8, (1.0,), (0.3,)))
CRAFTED = [
    {"spread": 3}, {"spread": []}, {"spread": ["a"]}, {"spread": [None]}, {"error": [[0.1]]},
    {"error": [float("nan")]}, {"error": [float("inf")]}, {"distances": [-1]}, {"executed": "1"},
    {"executed": 0}, {"executed": True}, {"horizon": 1.5}, {"horizon": None}, {"distances": {}},
    {"observation_scale": "x"}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("wrong", CRAFTED, ids=str)
def test_a_crafted_calibration_is_refused(tmp_path, wrong):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(MEASURED))
    assert Calibration.load(file).spread == (0.1,)
    file.write_text(json.dumps({**MEASURED, **wrong}))
    with pytest.raises(ValueError, match="isn't a calibration"):
        Calibration.load(file)


# EXIF's word for where the first row of pixels is seen, and where its first pixel is seen then.
TURNED = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("turn", TURNED)
def test_a_picture_is_pasted_as_it_is_seen(fkdiff, tmp_path, turn, kind):
    ground = Image.new("RGB", (40, 20))
    ground.paste((255, 255, 255), (0, 0, 8, 8))
    about = ground.getexif()
    about[0x112] = turn
    ground.save(tmp_path / f"b.{kind}", exif=about, lossless=True)
    Image.new("RGBA", (4, 4)).save(tmp_path / "c.png")  # nothing of it is seen
    assert (
        fkdiff("paste", tmp_path / f"b.{kind}", tmp_path / "c.png", "--out", tmp_path / "o.png")[0]
        == 0
    )
    with Image.open(tmp_path / "o.png") as made:
        assert made.size == ((40, 20) if turn <= 4 else (20, 40))
        right, low = TURNED[turn]
        place = (right * (made.width - 1), low * (made.height - 1))
        other = ((1 - right) * (made.width - 1), (1 - low) * (made.height - 1))
        assert (made.getpixel(place), made.getpixel(other)) == ((255,) * 3, (0,) * 3)


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_palette_keeps_its_transparency(fkdiff, tmp_path, kind):
    ground = Image.new("P", (8, 8), 0)
    ground.putpalette([0, 255, 0, 255, 0, 0])
    ground.paste(1, (4, 0, 8, 8))
    ground.save(tmp_path / f"b.{kind}", transparency=0)
    Image.new("RGBA", (2, 2)).save(tmp_path / "c.png")
    assert (
        fkdiff("paste", tmp_path / f"b.{kind}", tmp_path / "c.png", "--out", tmp_path / "o.png")[0]
        == 0
    )
    with Image.open(tmp_path / "o.png") as made:
        assert made.mode == "RGBA"
        assert made.getchannel("A").getpixel((0, 0)) == 0 and made.getpixel((7, 0)) == (
            255,
            0,
            0,
            255,
        )


@pytest.mark.parametrize("size", [10, 10**6], ids=["kept until the end", "written at once"])
@pytest.mark.parametrize("full", [False, True], ids=["reader gone", "disk full"])
def test_output_that_goes_nowhere_ends_without_a_traceback(tmp_path, size, full):
    file = tmp_path / "p.png"
    file.write_bytes(encode_png(Image.new("RGB", (4, 4)), {"prompt": "a" * size}))
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "fkdiff.cli", "show", str(file), "--json"]
    with open("/dev/full", "w") if full else os.fdopen(write, "w") as nowhere:
        done = subprocess.run(words, stdout=nowhere, stderr=subprocess.PIPE, text=True)
    if full:
        os.close(write)
    told = "fkdiff: can't write: No space left on device; free some space and give the command "
    told += "again\n"
    assert (done.returncode, done.stderr) == (1, told if full else "")

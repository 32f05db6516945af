"""A saved run is read back as it was, and damaged folders are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fkdiff import Result
from fkdiff.report import save
from tests.report.clouds import invented
from tests.report.test_report import SHAPES


def same(a, b):
    """Whether two values agree; numbers that aren't numbers agree with each other."""
    if a is None or b is None:
        return a is b
    return torch.equal(a.double().nan_to_num(7.0), b.double().nan_to_num(7.0))


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "large pictures"])
def test_a_saved_run_is_read_back(shape, tmp_path):
    before = SHAPES[shape]()
    save(before, tmp_path)
    after = Result.load(tmp_path)
    for name in ("latents", "log_w", "log_twist", "selected", "repair"):
        assert same(getattr(before, name), getattr(after, name)), name
    assert list(before.rewards) == list(after.rewards)
    assert all(same(before.rewards[name], after.rewards[name]) for name in before.rewards)
    assert torch.equal(before.ancestors(), after.ancestors())
    assert (before.prompts, before.seed, before.target) == (
        after.prompts,
        after.seed,
        after.target,
    )
    assert (vars(before.cost), before.complete) == (vars(after.cost), after.complete)
    assert len(before.trace) == len(after.trace)
    for one, other in zip(before.trace, after.trace, strict=True):
        assert (one.index, one.alpha, one.sigma) == (other.index, other.alpha, other.sigma)
        assert same(one.ess, other.ess) and torch.equal(one.resampled, other.resampled)
        assert all(same(one.rewards[name], other.rewards[name]) for name in one.rewards)
    if before.samples is None:
        assert after.samples is None
    else:
        kept = before.samples.nan_to_num(0.0).clamp(0, 1)
        pictures = before.samples.ndim == 5
        bound = 0.5001 / 255 if pictures else 0.0
        assert after.samples.shape == kept.shape
        assert float((after.samples - kept).abs().max()) <= bound
    save(after, tmp_path / "again")
    one, other = (load_file(f / "result.safetensors") for f in (tmp_path, tmp_path / "again"))
    assert one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    numbers = [f / "metrics.json" for f in (tmp_path, tmp_path / "again")]
    assert numbers[0].read_bytes() == numbers[1].read_bytes()


def _without(name):
    return lambda folder: (folder / name).unlink()


def _edited(name, **changes):
    def edit(folder):
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**known, **changes}))

    return edit


def _repair(folder):
    file = folder / "result.safetensors"
    save_file({**load_file(file), "repair": torch.ones(3)}, file)


DAMAGE = {
    "no result": (_without("result.json"), "doesn't exist"),
    "no metrics": (_without("metrics.json"), "doesn't exist"),
    "no tensors": (_without("result.safetensors"), "whole run"),
    "no picture": (_without("images/0001.png"), "whole run"),
    "half a file": (lambda f: (f / "result.json").write_text('{"fkdiff": '), "can't be read"),
    "a list": (lambda f: (f / "result.json").write_text("[]"), "whole run"),
    "later version": (_edited("result.json", format=99), "update fkdiff"),
    "version in words": (_edited("result.json", format="new"), "whole run"),
    "another shape": (_edited("result.json", prompts=["a", "b", "c"]), "log_w must be"),
    "pictures elsewhere": (
        _edited("result.json", particles=[{"prompt": 0, "slot": 0, "file": "../images/0000.png"}]),
        "images/NNNN.png",
    ),
    "no tensors in it": (lambda f: (f / "result.safetensors").write_bytes(b"x" * 64), "whole run"),
    "repair of another shape": (_repair, "repair must be"),
    "cost of another kind": (_edited("result.json", cost={"apples": 3}), "whole run"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save(invented(particles=2, steps=3, width=8), folder)
    return folder


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folders_are_refused(kind, saved, tmp_path):
    damage, words = DAMAGE[kind]
    folder = shutil.copytree(saved, tmp_path / "run")
    damage(folder)
    with pytest.raises(ValueError, match=words):
        Result.load(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run folder"):
        Result.load(tmp_path / "nothing")


def test_a_table_has_a_row_for_each_particle():
    result = invented(prompts=("a cat", "a dog"), particles=3, steps=4)
    table = result.to_pandas()
    assert table["prompt"].tolist() == ["a cat"] * 3 + ["a dog"] * 3
    assert table.groupby("prompt")["weight"].sum().round(12).eq(1).all()
    best = table[table["prompt"] == "a dog"].iloc[0]
    assert best["log_twist"] == float(result.log_twist[1].max())
    assert best["emoji-clip"] == float(result.rewards["emoji-clip"][1, best["slot"]])


def test_a_notebook_shows_text_as_text():
    html = invented(prompts=("<script>alert(1)</script>",), particles=2, steps=3)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and html.count("<img") == 3


def test_one_line_and_a_plot():
    result = invented(particles=4, steps=5)
    assert "\n" not in repr(result) and "4 particles" in repr(result)
    assert len(result.plot().axes) == len(result.plot(0).axes) >= 2
    with pytest.raises(ValueError, match="prompt must be 0 to 0, got 1"):
        result.plot(1)

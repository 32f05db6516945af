"""`--correct`, `--anneal`, `--expert`, `--product` and `fkdiff sweep` on a tiny pipeline."""

import ast
import json
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

FEW = ("--steps", 3, "--particles", 3, "--seed", 1, "--height", 16, "--width", 16)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A folder with a LoRA for the tiny pipeline, as `save_lora_weights` leaves it."""
    folder, generator = tmp_path_factory.mktemp("lora") / "taste", torch.Generator().manual_seed(0)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    shapes = {"A": (2, 16), "B": (16, 2)}
    weights = {
        f"{name}_{side}.weight": torch.randn(shape, generator=generator)
        for side, shape in shapes.items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, weights)
    return folder


def run_json(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_corrected_composition_is_one_run_and_its_python_repeats_it(fkdiff, model, lora, here):
    words = ["generate", "a cat", "--model", model, *FEW, "--reward", "mine.py:bright"]
    pool = ["--correct", "--anneal", 1.1, "--expert", f"{lora}=1.6", "--product", f"{model}=0.5"]
    code, told, error = fkdiff(*words, *pool, "--product", "a dog=0.2", "--out", "runs/x")
    assert code == 0, error
    about = run_json(here / "runs/x")
    assert about["target"].startswith("prod q_j^b_j at the smallest noise level")
    for part in ("base^-0.6 taste^1.6", "(tiny)^0.5", "(a dog)^0.2", "to the power 1.1", "bright"):
        assert part in about["target"]
    trace = json.loads((here / "runs/x/metrics.json").read_text())
    assert all(len(row["variance"]) == 1 for row in trace)
    python = about["python"]
    ast.parse(python)
    assert f'pipe.load_lora_weights("{lora}", adapter_name="taste")' in python
    assert "Correct()" in python and "DiffusionPipeline.from_pretrained" in python
    assert "--correct" in about["command"] and "--expert" in about["command"]
    page = (here / "runs/x/report.html").read_text()
    assert "corrector" in page


def test_few_steps_are_noted_in_a_line(fkdiff, model, here):
    words = ["generate", "a cat", "--model", model, *FEW, "--reward", "none", "--correct"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as PYTHONWARNINGS=error does
        code, _, error = fkdiff(*words)
    assert code == 0, error
    notes = [line for line in error.splitlines() if "below 50" in line]
    assert len(notes) == 1 and "fkdiff: note: Correct() runs 3 steps" in notes[0]


def test_without_an_adapter_the_plain_run_is_the_base(fkdiff, model, lora, here):
    words = ["generate", "a cat", "--model", model, *FEW, "--reward", "none"]
    assert fkdiff(*words, "--out", "base")[0] == 0
    assert fkdiff(*words, "--expert", f"{lora}=0", "--out", "zero")[0] == 0
    assert fkdiff(*words, "--expert", f"{lora}=2", "--out", "two")[0] == 0

    def pictures(folder):
        return {path.read_bytes() for path in pixels(here / folder)}

    assert pictures("base") == pictures("zero") != pictures("two")


def pixels(folder):
    """The pictures without their metadata."""
    for path in sorted((folder / "images").glob("*.png")):
        bare = path.with_suffix(".bmp")
        Image.open(path).save(bare)
        yield bare


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--expert", "taste"), "--expert must be NAME=NUMBER, got 'taste'; use --expert"),
        (("--expert", "taste=nan"), "--expert must be NAME=NUMBER"),
        (("--expert", "taste=1"), "--expert taste is no folder and no Hub id"),
        (("--expert", "a/b=1", "--expert", "a/b=2"), "name each expert once"),
        (("--anneal", "0"), "--anneal must be positive and finite, got 0"),
        (("--product", "a dog=-1"), "positive sum of exponents, got 0"),
        (("--product", ".=1"), "--product . isn't a diffusers pipeline"),
        (("--correct", "--guidance", "1"), "Correct() needs an unconditional branch"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    fkdiff, model, here, words, message
):
    before = sorted(here.iterdir())
    code, _, error = fkdiff(
        "generate", "a cat", "--model", model, "--reward", "none", *words, *FEW
    )
    assert code == 2 and message in error
    assert sorted(here.iterdir()) == before


def test_the_sweep_draws_a_slider_and_a_grid(fkdiff, model, lora, here):
    words = ["sweep", "a cat", "--model", model, "--expert", lora, "--steps", 2, "--w", "0,1,2"]
    reward = ["--reward", "mine.py:bright"]
    code, told, error = fkdiff(*words, *reward, "--guidance", "3,5", "--out", "s")
    assert code == 0, error
    slider, grid = (Image.open(here / "s" / name).copy() for name in ("slider.png", "grid.png"))
    assert slider.width == pytest.approx(grid.width, rel=0.3) and grid.height > slider.height
    cells = json.loads((here / "s/sweep.json").read_text())["cells"]
    assert [(c["guidance"], c["w"]) for c in cells[3:]] == [
        (g, w) for g in (3.0, 5.0) for w in (0.0, 1.0, 2.0)
    ]
    assert len({c["score"] for c in cells}) == len(cells)
    assert [c["evaluations"] for c in cells[:3]] == [4, 4, 8]
    code, _, error = fkdiff(*words, "--correct", "--out", "t")
    assert code == 2 and "--particles 2 or more" in error
    code, _, error = fkdiff("sweep", "a cat", "--model", model, "--expert", lora, "--w", "0,x")
    assert code == 2 and "--w must be finite numbers" in error

"""FK pipelines load by `custom_pipeline`, are stock without terms, steer with them, save stock."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import fkdiff.pipelines
from fkdiff import Tilt, as_reward
from tests.pipelines.test_rlg_pipelines import RLG_FAMILIES
from tests.tiny import build

FOLDER = Path(fkdiff.pipelines.__file__).parent
FAMILIES = {
    "sd": "fk_stable_diffusion",
    "sdxl": "fk_stable_diffusion_xl",
    "sd3": "fk_stable_diffusion_3",
    "flux": "fk_flux",
    "pixart": "fk_pixart_sigma",
    "sana": "fk_sana",
    "dit": "fk_dit",
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """The stock pipeline and the FK one, both loaded from one saved folder."""
    tiny = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tiny.pipe.save_pretrained(folder)
    stock = DiffusionPipeline.from_pretrained(folder)
    file = FOLDER / f"{FAMILIES[request.param]}.py"
    steered = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(file), trust_remote_code=True
    )
    for pipe in (stock, steered):
        pipe.set_progress_bar_config(disable=True)
    return stock, steered, tiny.call


def draw(pipe, call, **more):
    generator = torch.Generator().manual_seed(0)
    return pipe(**call, num_inference_steps=2, generator=generator, output_type="np", **more)


def test_without_terms_it_is_the_stock_call(pair):
    stock, steered, call = pair
    assert np.array_equal(draw(stock, call).images, draw(steered, call).images)


def test_with_terms_it_steers(pair):
    _, steered, call = pair
    bright = as_reward(lambda pixels: pixels.flatten(1).mean(1), name="bright")
    out = draw(steered, call, terms=[Tilt(bright, scale=9.0)], particles=3)
    assert len(out.images) == 1
    assert out.steering.rewards["bright"].shape == (1, 3)
    best = out.steering.samples[0, out.steering.order[0, 0]]
    assert np.array_equal(out.images[0], best.movedim(0, -1).numpy())


def test_signature_is_the_stock_one_and_ours(pair):
    stock, steered, _ = pair
    ours = list(inspect.signature(type(steered).__call__).parameters)
    theirs = list(inspect.signature(type(stock).__call__).parameters)
    added = ["terms", "particles", "resample", "stochastic", "micro_batch", "select"]
    assert [name for name in ours if name not in theirs] == added
    assert [name for name in ours if name in theirs] == theirs


def test_it_is_saved_as_its_stock_class(pair, tmp_path):
    stock, steered, _ = pair
    steered.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is type(stock)


def test_every_pipeline_is_exported():
    names = {path.stem for path in FOLDER.glob("*_*.py") if path.stem[:3] in ("fk_", "rlg")}
    assert names == {*FAMILIES.values(), *RLG_FAMILIES.values()}
    shared = {"__init__", "rl_guided", "steerable", "transparent"}
    files = {path.stem for path in FOLDER.glob("*.py")} - shared
    assert len(fkdiff.pipelines.__all__) == len(files)  # a pipeline a file
    for name in fkdiff.pipelines.__all__:
        assert issubclass(getattr(fkdiff.pipelines, name), DiffusionPipeline)

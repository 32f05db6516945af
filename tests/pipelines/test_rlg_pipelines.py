"""RLG pipelines load by `custom_pipeline`; they are stock without an expert, and lean on one."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import fkdiff.pipelines
from fkdiff.processes.streams import slot_generators
from tests.taps.pools import network_of, nudged
from tests.tiny import build

FOLDER = Path(fkdiff.pipelines.__file__).parent
RLG_FAMILIES = {
    "sd": "rlg_stable_diffusion",
    "sdxl": "rlg_stable_diffusion_xl",
    "sd3": "rlg_stable_diffusion_3",
}


@pytest.fixture(scope="module", params=RLG_FAMILIES)
def pair(request, tmp_path_factory):
    """The stock pipeline and the RLG one, both loaded from one saved folder."""
    tiny = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tiny.pipe.save_pretrained(folder)
    stock = DiffusionPipeline.from_pretrained(folder)
    file = FOLDER / f"{RLG_FAMILIES[request.param]}.py"
    guided = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(file), trust_remote_code=True
    )
    for pipe in (stock, guided):
        pipe.set_progress_bar_config(disable=True)
        network_of(pipe).requires_grad_(False)
    return stock, guided, tiny.call


def draw(pipe, call, generator=None, **more):
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return pipe(**call, num_inference_steps=2, generator=generator, output_type="np", **more)


def test_ends_and_the_slider_between_them(pair):
    stock, guided, call = pair
    assert np.array_equal(draw(stock, call).images, draw(guided, call).images)
    tuned = nudged(network_of(guided))
    kept = slot_generators(0, 1, 2)
    two = {"num_images_per_prompt": 2}
    base = draw(stock, call, kept, **two).images
    drawn = {w: draw(guided, call, tuned=tuned, w=w, **two).images for w in (0.0, 1.0, 1.6)}
    assert np.array_equal(drawn[0.0], base)
    assert not np.array_equal(drawn[1.0], drawn[1.6])


@pytest.mark.filterwarnings("ignore:Correct")
def test_a_corrected_picture_comes_from_a_cloud(pair):
    _, guided, call = pair
    tuned = nudged(network_of(guided))
    out = draw(guided, call, tuned=tuned, w=1.6, correct=True, particles=3)
    assert len(out.images) == 1
    assert out.steering.log_w.shape == (1, 3)
    assert out.steering.target.startswith("prod q_j^b_j")


def test_signature_is_the_stock_one_and_ours(pair):
    stock, guided, _ = pair
    ours = list(inspect.signature(type(guided).__call__).parameters)
    theirs = list(inspect.signature(type(stock).__call__).parameters)
    added = ["tuned", "w", "interval", "mode", "correct", "particles", "micro_batch"]
    assert [name for name in ours if name not in theirs] == added


def test_it_is_saved_as_its_stock_class(pair, tmp_path):
    stock, guided, _ = pair
    guided.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is type(stock)

"""Alfie pipelines load by `custom_pipeline` and draw pictures with alpha."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import fkdiff.pipelines
from fkdiff import Tilt
from fkdiff.rewards import Uncropped
from tests.tiny import build

FOLDER = Path(fkdiff.pipelines.__file__).parent
FAMILIES = {
    "sd": "alfie_stable_diffusion",
    "sdxl": "alfie_stable_diffusion_xl",
    "pixart": "alfie_pixart_sigma",
    "sd3": "alfie_stable_diffusion_3",
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """The stock pipeline and the Alfie one, both loaded from one saved folder."""
    tiny = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tiny.pipe.save_pretrained(folder)
    stock = DiffusionPipeline.from_pretrained(folder)
    file = FOLDER / f"{FAMILIES[request.param]}.py"
    alfie = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(file), trust_remote_code=True
    )
    for pipe in (stock, alfie):
        pipe.set_progress_bar_config(disable=True)
    return stock, alfie, {**tiny.call, "num_inference_steps": 2}


def test_pictures_have_alpha_in_every_type(pair):
    stock, alfie, call = pair
    prompts = {**call, "prompt": ["a cat", "a dog"], "num_images_per_prompt": 2}
    seeds = {"seeds": [1, 2, 3, 4]}
    pil = alfie(**prompts, **seeds).images
    assert [image.mode for image in pil] == ["RGBA"] * 4
    tensors = alfie(**prompts, **seeds, output_type="pt").images
    assert tensors.shape == (4, 4, 16, 16) and 0 <= tensors.min() and tensors.max() <= 1
    values = np.stack([np.asarray(image) for image in pil]) / 255
    assert np.abs(values[..., 3] - tensors[:, 3].numpy()).mean() < 0.05
    # A picture with the third seed is the same alone.
    alone = alfie(**{**call, "prompt": "a dog"}, seeds=[3], output_type="np").images
    assert alone.shape == (1, 16, 16, 4)
    assert np.abs(alone[0, ..., :3] - tensors[2, :3].movedim(0, -1).numpy()).mean() < 0.02
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 4)]
    again = alfie(**prompts, generator=generators, output_type="pt").images
    assert torch.equal(again, tensors)


def test_steered_and_stock(pair):
    stock, alfie, call = pair
    out = alfie(**call, terms=[Tilt(Uncropped())], particles=2)
    assert len(out.images) == 1 and out.steering.log_w.shape == (1, 2)
    seeded = {"generator": torch.Generator().manual_seed(0), "output_type": "np"}
    plain = alfie(**call, background=None, **seeded).images
    seeded["generator"] = torch.Generator().manual_seed(0)
    assert np.array_equal(plain, stock(**call, **seeded).images)


def test_signature_and_saving(pair, tmp_path):
    stock, alfie, _ = pair
    ours = list(inspect.signature(type(alfie).__call__).parameters)
    theirs = list(inspect.signature(type(stock).__call__).parameters)
    added = ["background", "mask", "subject", "method", "terms", "particles", "seeds"]
    assert [name for name in ours if name not in theirs] == [*added, "micro_batch"]
    alfie.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is type(stock)

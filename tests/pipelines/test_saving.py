"""Custom pipelines are saved as their stock class would be, with every setting."""

import inspect
import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import fkdiff.pipelines
from tests.tiny import SETUPS, build

CUSTOM = [
    name
    for name in fkdiff.pipelines.__all__
    if getattr(fkdiff.pipelines, name).__mro__[1] is not DiffusionPipeline
]
SETUP_OF = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "PixArtSigmaPipeline": "pixart",
    "SanaPipeline": "sana",
    "DiTPipeline": "dit",
}


def unusual(base):
    """Settings of a pipeline class, each at another value than its default."""
    defaults = {n: p.default for n, p in inspect.signature(base.__init__).parameters.items()}
    return {
        name: not usual if isinstance(usual, bool) else usual + 1
        for name, usual in defaults.items()
        if isinstance(usual, bool | int | float)
    }


def told(config):
    """A config without what says where it comes from."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def drawn(pipe, call):
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    return pipe(**call, **settings, generator=torch.Generator().manual_seed(0)).images


@pytest.mark.parametrize("name", CUSTOM)
def test_a_reloaded_pipeline_has_every_setting_and_draws_the_same(name, tmp_path):
    cls = getattr(fkdiff.pipelines, name)
    base = cls.__mro__[1]
    tiny = build(SETUP_OF[base.__name__])
    stock = base(**tiny.pipe.components, **unusual(base))
    custom = cls(**tiny.pipe.components, **unusual(base))
    stock.save_pretrained(tmp_path / "stock")
    custom.save_pretrained(tmp_path / "custom")
    index = [
        json.loads((tmp_path / d / "model_index.json").read_text()) for d in ("stock", "custom")
    ]
    assert index[1] == index[0]
    assert {key: index[1][key] for key in unusual(base)} == unusual(base)
    again = DiffusionPipeline.from_pretrained(tmp_path / "custom")
    assert type(again) is base and told(again.config) == told(stock.config)
    # Loaded weights lie elsewhere in memory, which may round otherwise.
    assert np.abs(drawn(again, tiny.call) - drawn(stock, tiny.call)).max() < 1e-5
    assert type(custom) is cls  # the one that was saved stays what it is


def test_settings_are_there_to_be_lost():
    """Some of the pipelines have settings, or the test above would show nothing."""
    classes = {getattr(fkdiff.pipelines, name).__mro__[1] for name in CUSTOM}
    assert {cls.__name__ for cls in classes} == set(SETUP_OF) and set(SETUP_OF.values()) < set(
        SETUPS
    )
    found = {cls.__name__: sorted(unusual(cls)) for cls in classes if unusual(cls)}
    assert found == {
        "StableDiffusionPipeline": ["requires_safety_checker"],
        "StableDiffusionXLPipeline": ["force_zeros_for_empty_prompt"],
    }

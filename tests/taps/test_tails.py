"""Decoding by a pipeline's own tail, whatever its call is given and returns."""

from typing import Any

import diffusers as D
import pytest
import torch

import fkdiff.taps.decode
from fkdiff import Tilt, as_reward, steer
from fkdiff.taps.decode import yields
from tests.taps.setups import CALL, SEED, as_tensor, assert_near, brightness, shared
from tests.taps.test_inputs import EMBEDDED, TWO, built, encoded, parameters


def weighed(tiny, **call):
    steered = steer(tiny.pipe, Tilt(brightness(tiny), scale=5), particles=2, seed=SEED)
    return steered(**{**CALL, **tiny.call, **call}).steering


def test_a_tail_that_leaves_tensors_unscaled():
    """Kandinsky's tensors are in [-1, 1], and it takes its steps by position."""
    tiny, seen = built("kandinsky"), []
    reward = as_reward(lambda x: seen.append(x) or x.mean((1, 2, 3)), "light", inputs="pixels")
    one = tiny.call["image_embeds"]
    call = {"image_embeds": torch.cat([one, -one]), "negative_image_embeds": torch.zeros(2, 6)}
    steered = steer(tiny.pipe, Tilt(reward), particles=2, seed=SEED, select="all", resample=None)
    out = steered(**{**tiny.call, **call, "num_inference_steps": 3, "output_type": "np"})
    assert min(float(x.min()) for x in seen) >= 0
    order = out.steering.selected + torch.tensor([[0], [2]])
    pictures = as_tensor(out).movedim(-1, 1)
    assert_near(out.steering.samples.flatten(0, 1)[order.flatten()], pictures, 1e-6)
    raw = steered(**{**tiny.call, **call, **CALL})
    assert as_tensor(raw).min() < 0  # as the stock call gives them


@pytest.mark.parametrize("name", ["sd", "sd3", "sd_inpaint", "sdxl_inpaint", "cogvideox"])
def test_two_prompts_with_inputs_of_their_own(name, monkeypatch):
    tiny = shared(name)
    call: dict[str, Any] = {"prompt": TWO, "negative_prompt": ["grey", "loud"]}
    for key in {"image", "mask_image"} & {*tiny.call}:
        first = tiny.call[key]
        call[key] = torch.cat([first, 1 - first])
    known = weighed(tiny, **call)
    monkeypatch.setattr(fkdiff.taps.decode, "DECODERS", {})
    unknown = weighed(tiny, **call)
    assert_near(unknown.samples, known.samples, 1e-5)
    assert_near(unknown.log_w, known.log_w, 1e-4)


@pytest.mark.parametrize("name", ["sd", "sd3", "wan"])
def test_embeddings(name, monkeypatch):
    tiny = shared(name)
    call = dict.fromkeys({"prompt", "negative_prompt"} & parameters(tiny))
    call |= encoded(tiny, EMBEDDED[name])
    known = weighed(tiny, **call)
    monkeypatch.setattr(fkdiff.taps.decode, "DECODERS", {})
    assert_near(weighed(tiny, **call).samples, known.samples, 1e-5)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (D.LattePipeline, "video"),
        (D.StableVideoDiffusionPipeline, "video"),
        (D.VideoToVideoSDPipeline, "video"),
        (D.LTXConditionPipeline, "video"),
        (D.MusicLDMPipeline, "audio"),
        (D.FluxControlPipeline, "pixels"),
        (D.KandinskyV22Pipeline, "pixels"),
    ],
)
def test_video_is_told_from_pixels_by_what_comes_out(kind, what):
    assert yields(object.__new__(kind)) == what

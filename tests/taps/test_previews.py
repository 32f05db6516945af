"""Previews: decoded by the small decoder, or taken over; the run itself doesn't notice."""

import pytest
import torch
from diffusers import AutoencoderTiny

from fkdiff import Tilt, as_reward, steer
from fkdiff.taps import previews
from fkdiff.taps.previews import preview, small_decoder
from tests.tiny import build

CALL = {"num_inference_steps": 4, "height": 32, "width": 32}


@pytest.fixture
def tiny_folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8,) * 2, "decoder_block_out_channels": (8,) * 2}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**channels, **blocks).save_pretrained(tmp_path)
    known = {"StableDiffusionPipeline": str(tmp_path)}
    monkeypatch.setattr(previews, "SMALL_DECODERS", known)
    return tmp_path


def watched(pipe, small, *terms):
    """A run of three particles: its record, and the previews and estimates of each step."""
    seen = []

    def watch(step, trace):
        seen.append((preview(step, small), step.x0.clone(), trace))

    out = steer(pipe, *terms, particles=3, seed=0, watch=watch)("a cat", **CALL)
    return out.steering, seen


def test_the_small_decoder_shows_every_particle(tiny_folder):
    pipe = build("sd").pipe
    small = small_decoder(pipe)
    record, seen = watched(pipe, small)
    assert [trace.index for *_, trace in seen] == [0, 1, 2, 3]
    for pixels, x0, _ in seen[:-1]:
        expected = (small.decode(x0).sample / 2 + 0.5).clamp(0, 1)
        assert pixels.shape[:2] == (3, 3) and torch.allclose(pixels, expected, atol=1e-6)
    alone = steer(pipe, particles=3, seed=0)("a cat", **CALL).steering
    assert record.latents.equal(alone.latents) and record.cost.decodes == alone.cost.decodes


def test_what_the_reward_has_decoded_is_taken_over(tiny_folder):
    pipe = build("sd").pipe
    looked = []

    def bright(pixels):
        looked.append(pixels)
        return pixels.mean((1, 2, 3))

    def no_decoder(*_):
        raise AssertionError("decoded twice")

    small = small_decoder(pipe)
    small.decode = no_decoder
    tilt = Tilt(as_reward(bright), potential="difference")
    every = {"particles": 3, "seed": 0, "watch": lambda step, _: seen.append(step)}
    seen = []
    steer(pipe, tilt, **every)("a cat", **CALL)
    step = seen[-1]
    assert preview(step, small).equal(looked[-1][step.unique[1]])


def test_families_without_a_small_decoder_show_what_there_is():
    pipe = build("dit").pipe
    assert small_decoder(pipe) is None
    seen = []
    watch = lambda step, _: seen.append(preview(step, None))  # noqa: E731
    steer(pipe, particles=2, seed=0, watch=watch)([0], num_inference_steps=2)
    assert seen == [None, None]


def test_pixels_need_no_decoder():
    pipe = build("ddpm").pipe
    seen = []
    watch = lambda step, _: seen.append(preview(step, small_decoder(pipe)))  # noqa: E731
    steer(pipe, particles=2, seed=0, watch=watch)(num_inference_steps=2)
    assert all(len(pixels) == 2 and 0 <= pixels.min() <= pixels.max() <= 1 for pixels in seen)


def test_what_a_watcher_raises_ends_the_run_and_the_pipeline_is_restored(tiny_folder):
    pipe = build("sd").pipe
    before = dict(vars(pipe))

    def stop(step, _):
        if step.index == 1:
            raise KeyboardInterrupt

    steered = steer(pipe, particles=2, seed=0, watch=stop)
    with pytest.raises(KeyboardInterrupt):
        steered("a cat", **CALL)
    assert len(steered.partial.trace) == 2 and not steered.partial.complete
    assert vars(pipe)["scheduler"] is before["scheduler"]

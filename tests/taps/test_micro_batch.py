"""With `micro_batch` nothing handles all particles' pictures at once that needn't."""

import pytest
import torch

from fkdiff import Resample, Tilt, as_reward, steer
from tests.taps.setups import CALL, SEED, K, brightness, shared


def sizes_of(owner, name, monkeypatch):
    seen, original = [], getattr(owner, name)

    def watched(x, *args, **kwargs):
        seen.append(len(x))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(owner, name, watched)
    return seen


@pytest.mark.parametrize("output_type", ["pt", "np", "pil"])
def test_pictures_are_converted_a_few_at_a_time(output_type, monkeypatch):
    tiny = shared("sd")
    seen = sizes_of(tiny.pipe.image_processor, "postprocess", monkeypatch)
    call = {**CALL, **tiny.call, "output_type": output_type}
    whole = steer(tiny.pipe, particles=K, seed=SEED, select="all")(**call).images
    parts = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=2)(**call).images
    assert seen == [5, 2, 2, 1]
    assert type(parts) is type(whole) and len(parts) == K
    for a, b in zip(whole, parts, strict=True):
        if output_type == "pil":
            assert a.size == b.size
        else:
            assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b), atol=1e-5)


def test_rows_are_decoded_one_at_a_time_and_once(monkeypatch):
    tiny = shared("sd")
    seen = sizes_of(tiny.pipe.vae, "decode", monkeypatch)
    steered = steer(
        tiny.pipe, Tilt(brightness(tiny)), particles=K, seed=SEED, resample=None, micro_batch=2
    )
    steered(**{**CALL, **tiny.call})
    assert (
        seen == [1] * K
    )  # with importance sampling only the end is scored, and kept for the tail


def test_an_interrupted_run_holds_no_pictures_while_the_network_works():
    tiny, seen = shared("sd"), []

    def reward(samples):
        seen.append(samples)
        return samples.flatten(1).mean(1)

    def interrupt(*_):
        if len(seen) == 2:
            raise KeyboardInterrupt

    hook = tiny.pipe.unet.register_forward_pre_hook(interrupt)
    every = Resample(ess=0.01, window=(0.0, 1.0))
    steered = steer(tiny.pipe, Tilt(as_reward(reward)), particles=K, seed=SEED, resample=every)
    try:
        with pytest.raises(KeyboardInterrupt):
            steered(**{**CALL, **tiny.call})
    finally:
        hook.remove()
    assert steered.partial is not None and steered.partial.samples is None
    assert steered.partial.latents.shape[:2] == (1, K)
    assert torch.allclose(
        steered.partial.rewards["reward"].flatten(), seen[1].flatten(1).mean(1).double()
    )

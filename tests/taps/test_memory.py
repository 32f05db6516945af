"""Where memory runs out: smaller micro-batches, the same random numbers."""

import contextlib
import logging

import pytest
import torch

from fkdiff import Cutout, Grid, Resample, Tilt, as_reward, sample, steer
from fkdiff.terms.memory import ran_out, within_memory
from tests.taps.setups import shared

CALL = {"num_inference_steps": 3, "output_type": "pt"}
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory."),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "python": MemoryError(),
}


@contextlib.contextmanager
def short_of_memory(module, most, error, method="forward"):
    """Let a method of a network fail for more rows than `most`."""
    usual, seen = getattr(module, method), []

    def call(x, *args, **kwargs):
        seen.append(len(x))
        if len(x) > most:
            raise error
        return usual(x, *args, **kwargs)

    setattr(module, method, call)
    try:
        yield seen
    finally:
        delattr(module, method)


def steered(pipe, **more):
    bright = as_reward(lambda x: x.mean((1, 2, 3)), name="bright")
    settings = {"particles": 5, "seed": 2, "select": "all", "resample": Resample(window=(0, 1))}
    return steer(pipe, Tilt(bright, 20.0), **{**settings, **more})


def test_the_network_gets_half_as_many_rows_until_they_fit(caplog):
    tiny = shared("sd")
    call = {**tiny.call, **CALL}
    given = steered(tiny.pipe, micro_batch=1)(**call).steering
    with (
        short_of_memory(tiny.pipe.unet, 3, ERRORS["cuda"]) as seen,
        caplog.at_level(logging.WARNING),
    ):
        found = steered(tiny.pipe)(**call).steering  # 5 particles, 2, 1: two rows each, guided
    assert seen[:3] == [10, 4, 2] and set(seen[3:]) == {2}
    assert found.latents.equal(given.latents) and found.log_w.equal(given.log_w)
    assert found.cost.denoiser_evaluations == given.cost.denoiser_evaluations
    assert "out of memory with 5 particles at once; going on with micro_batch=2" in caplog.text
    assert found.settings["micro_batch"] == 1
    assert found.settings["out_of_memory"] == "went on with micro_batch=1"
    assert "out_of_memory" not in given.settings


def test_a_call_whose_attention_is_recorded_isn_t_made_twice():
    tiny = shared("sd")
    call = {**tiny.call, **CALL}
    run = steer(tiny.pipe, Cutout(window=(0.0, 1.0)), particles=4, seed=2)
    # The middle of the network: half of its attention has been recorded by then.
    with (
        short_of_memory(tiny.pipe.unet.mid_block, 2, ERRORS["cuda"]) as seen,
        pytest.raises(torch.OutOfMemoryError),
    ):
        run(**call)
    assert seen == [8]


def test_cut_outs_are_those_of_the_micro_batch_that_memory_leaves():
    tiny = shared("sd")
    call = {**tiny.call, **CALL}
    bright = Tilt(as_reward(lambda x: x.mean((1, 2, 3)), name="bright"), 20.0)
    run = {
        size: steer(
            tiny.pipe, Cutout(), bright, particles=4, seed=2, select="all", micro_batch=size
        )
        for size in (2, None)
    }
    given = run[2](**call).images
    with short_of_memory(tiny.pipe.vae.decoder, 1, ERRORS["cuda"]):
        found = run[None](**call)
    assert found.steering.settings["micro_batch"] == 2
    assert torch.allclose(found.images, given, atol=1e-3)
    assert not torch.allclose(given[:, 3], given[[1, 2, 3, 0], 3], atol=1e-3)


def test_decoders_and_rewards_get_fewer_rows(caplog):
    tiny = shared("sd")
    with short_of_memory(tiny.pipe.vae.decoder, 2, ERRORS["cuda"]) as seen:
        found = steered(tiny.pipe)(**tiny.call, **CALL).steering
    assert seen[0] == 5 and set(seen[1:]) == {1} and found.settings["micro_batch"] == 2
    looked = []

    def hungry(pixels):
        looked.append(len(pixels))
        if len(pixels) > 3:
            raise ERRORS["cpu"]
        return pixels.mean((1, 2, 3))

    out = steer(tiny.pipe, Tilt(as_reward(hungry)), particles=5, seed=2, select="all")
    result = out(**tiny.call, **CALL).steering
    assert looked[:2] == [5, 2] and max(looked[1:]) == 2
    assert result.cost.reward_calls == {"hungry": 15}


def test_a_controlnet_gets_fewer_rows():
    tiny = shared("sd_controlnet")
    call = {**tiny.call, **CALL}
    with short_of_memory(tiny.pipe.controlnet, 4, ERRORS["cuda"]) as seen:
        found = steered(tiny.pipe)(**call).steering
    assert seen[:2] == [10, 4] and found.settings["micro_batch"] == 2


def test_one_row_that_doesn_t_fit_is_told_as_it_is():
    tiny = shared("sd")
    with (
        short_of_memory(tiny.pipe.unet, 0, ERRORS["cuda"]) as seen,
        pytest.raises(torch.OutOfMemoryError),
    ):
        steered(tiny.pipe)(**tiny.call, **CALL)
    assert seen == [10, 4, 2]


def test_other_errors_are_not_tried_again():
    tiny = shared("sd")
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with (
        short_of_memory(tiny.pipe.unet, 3, error) as seen,
        pytest.raises(RuntimeError, match="mat1"),
    ):
        steered(tiny.pipe)(**tiny.call, **CALL)
    assert seen == [10] and not ran_out(error)


def test_loops_of_our_own_get_fewer_rows():
    seen = []

    def denoiser(x, alpha, sigma):
        seen.append(len(x))
        if len(x) > 3:
            raise MemoryError
        return x / (alpha**2 + sigma**2) ** 0.5 * sigma

    sample(denoiser, Grid.vp(4), shape=(2,), particles=8, seed=0)
    assert seen[:3] == [8, 4, 2]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_limit_stays_for_the_rest_of_the_run(kind):
    class Holder:
        micro_batch = None

    holder, seen = Holder(), []

    def call(size):
        seen.append(size)
        if size > 2:
            raise ERRORS[kind]
        return size

    assert [within_memory(holder, 9, call) for _ in range(2)] == [2, 2]
    assert seen == [9, 4, 2, 2] and holder.micro_batch == 2

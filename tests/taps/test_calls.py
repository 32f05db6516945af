"""What a steered call does with what a user passes, and what it gives back."""

import copy

import numpy as np
import pytest
import torch
from diffusers import (
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image

import fkdiff.taps.decode
import fkdiff.taps.pipeline
from fkdiff import Resample, Tilt, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from tests.taps.setups import (
    CALL,
    SEED,
    K,
    Watching,
    as_tensor,
    brightness,
    plain_call,
    shared,
    stock,
)
from tests.tiny.table import PAGE, parts, table


@pytest.mark.parametrize(
    ("name", "two"),
    [
        ("sd", {"prompt": ["a cat", "dog"]}),
        ("dit", {"class_labels": [1, 2]}),
        ("cogvideox", {"prompt": ["a cat", "dog"]}),
        ("zimage", {"prompt": ["a cat", "dog"]}),
        ("sdxl_inpaint", {"prompt": ["a cat", "dog"]}),
        ("sd3_modular", {"prompt": ["a cat", "dog"]}),
    ],
)
def test_several_prompts_at_once(name, two):
    tiny = shared(name)
    rows = (
        {tiny.count: 2}
        if tiny.count
        else {k: [x for x in v for _ in "12"] for k, v in two.items()}
    )
    given = copy.deepcopy({**tiny.call, **two, **rows, **CALL})  # some write into their prompts
    plain = tiny.pipe(**given, generator=slot_generators(SEED, 2, 2))
    call = {**tiny.call, **two, **CALL}
    out = steer(tiny.pipe, particles=2, seed=SEED, select="all")(**call)
    assert torch.equal(as_tensor(out), as_tensor(plain))
    assert two in ({"prompt": ["a cat", "dog"]}, {"class_labels": [1, 2]})
    assert out.steering.prompts == [str(v) for values in two.values() for v in values]
    term = Tilt(brightness(tiny), scale=1000)
    settings = {"particles": 3, "seed": SEED, "resample": Resample(ess=None, window=(0, 1))}
    out = steer(tiny.pipe, term, **settings)(**call)
    assert len(as_tensor(out)) == 2
    moves = [rows for rows in out.steering.rows if rows is not None]
    assert moves
    for rows in moves:
        assert (rows // 3).tolist() == [0, 0, 0, 1, 1, 1]


def test_output_types(sd):
    steered = steer(sd.pipe, Tilt(brightness(sd), scale=2), particles=3, seed=SEED)
    call = {**sd.call, "num_inference_steps": 3}
    tensors = steered(**call, output_type="pt").images
    assert tensors.shape == (1, 3, 16, 16)
    arrays = steered(**call, output_type="np").images
    assert np.array_equal(arrays, tensors.movedim(1, -1).numpy())
    (picture,) = steered(**call).images
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.asarray(picture), (arrays[0] * 255).round().astype("uint8"))


def test_return_dict_false_gives_a_tuple_that_ends_with_the_record(sd):
    images, record = steer(sd.pipe, particles=2, seed=SEED, select="all")(
        **sd.call, **CALL, return_dict=False
    )
    assert len(images) == 2
    assert record.log_w.shape == (1, 2)


def test_a_users_callback_sees_the_resampled_latents(sd):
    seen, steps = [], []

    def callback(pipe, index, timestep, given):
        seen.append(given["latents"].clone())
        return given

    steered = steer(
        sd.pipe,
        Tilt(brightness(sd), scale=1000),
        Watching(lambda step: steps.append(step.x_next)),
        particles=3,
        seed=SEED,
        resample=Resample(ess=None, window=(0, 1)),
    )
    out = steered(**sd.call, **CALL, callback_on_step_end=callback)
    assert len(seen) == 3
    assert out.steering.rows[0] is not None
    assert torch.equal(seen[0], steps[0][out.steering.rows[0]])


def test_an_interrupt_from_the_callback_is_reported_and_what_was_made_is_kept(sd):
    def callback(pipe, index, timestep, given):
        pipe._interrupt = True
        return {}

    steered = steer(sd.pipe, particles=2, seed=SEED)
    with pytest.raises(TapError, match="ended before its last timestep"):
        steered(**sd.call, **CALL, callback_on_step_end=callback)
    assert len(steered.partial.trace) == 1 and not steered.partial.complete
    assert torch.equal(plain_call(sd), stock("sd"))


def test_a_users_generator_supplies_the_seed(sd):
    steered = steer(sd.pipe, particles=K, select="all")
    for generator in (torch.Generator().manual_seed(SEED), [torch.Generator().manual_seed(SEED)]):
        out = steered(**sd.call, **CALL, generator=generator)
        assert torch.equal(as_tensor(out), stock("sd"))
        assert out.steering.seed == SEED


def test_two_calls_with_one_seed_agree_bit_for_bit(sd):
    steered = steer(sd.pipe, Tilt(brightness(sd), scale=100), particles=3, seed=SEED)
    first, second = (steered(**sd.call, **CALL) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.steering.log_w, second.steering.log_w)


def test_a_scheduler_that_pipelines_share_is_never_touched(sd):
    scheduler = type(sd.pipe.scheduler).from_config(sd.pipe.scheduler.config)
    original, sd.pipe.scheduler = sd.pipe.scheduler, scheduler
    before = {k: repr(v) for k, v in vars(scheduler).items()}
    try:
        steer(sd.pipe, Tilt(brightness(sd), scale=2), particles=2, seed=SEED)(**sd.call, **CALL)
        assert sd.pipe.scheduler is scheduler
        assert {k: repr(v) for k, v in vars(scheduler).items()} == before
    finally:
        sd.pipe.scheduler = original


def test_a_deterministic_step_is_replaced_and_said_so_or_refused(sd):
    term = Tilt(brightness(sd), scale=2)
    out = steer(sd.pipe, term, particles=2, seed=SEED)(**sd.call, **CALL)
    assert "DDIMScheduler" in out.steering.settings["replaced_step"]
    with pytest.raises(TapError, match="eta=1"):
        steer(sd.pipe, term, particles=2, seed=SEED, stochastic=False)(**sd.call, **CALL)
    kept = steer(sd.pipe, term, particles=2, seed=SEED, stochastic=False, resample=None)
    assert kept(**sd.call, **CALL).steering.settings["replaced_step"] is None
    eta = steer(sd.pipe, term, particles=2, seed=SEED, stochastic=False)
    assert eta(**sd.call, **CALL, eta=1.0).steering.settings["replaced_step"] is None


@pytest.mark.parametrize("scheduler", [PNDMScheduler, HeunDiscreteScheduler])
def test_schedulers_with_more_calls_than_steps(scheduler, with_scheduler):
    sd = with_scheduler(scheduler, skip_prk_steps=True)
    plain = plain_call(sd)
    out = steer(sd.pipe, particles=K, seed=SEED, select="all")(**sd.call, **CALL)
    assert torch.equal(as_tensor(out), plain)
    pools = []
    watch = Watching(lambda step: pools.append(step.experts))
    term = Tilt(brightness(sd), scale=1000)
    out = steer(sd.pipe, term, watch, particles=3, seed=SEED)(**sd.call, **CALL)
    assert scheduler.__name__ in out.steering.settings["replaced_step"]
    assert any(rows is not None for rows in out.steering.rows)
    assert len(pools) == len(out.steering.trace)
    assert {round(e.b, 3) for pool in pools for e in pool} == {5.0, -4.0}


@pytest.mark.parametrize("name", ["sd", "ddpm", "mochi", "audioldm2", "sd3_modular"])
def test_a_family_that_is_not_in_the_table_is_decoded_by_its_own_tail(name, monkeypatch):
    tiny = shared(name)
    steered = steer(tiny.pipe, Tilt(brightness(tiny), scale=100), particles=3, seed=SEED)
    known = steered(**{**CALL, **tiny.call})
    monkeypatch.setattr(fkdiff.taps.decode, "DECODERS", {})
    unknown = steered(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(unknown), as_tensor(known))
    assert torch.equal(unknown.steering.log_w, known.steering.log_w)
    assert torch.equal(unknown.steering.samples, known.steering.samples)


def test_embeddings_and_latents_in_place_of_a_prompt(sd):
    embeds = sd.pipe.encode_prompt("a cat", "cpu", 1, True)
    call = {k: v for k, v in sd.call.items() if k != "prompt"}
    call |= {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    out = steer(sd.pipe, particles=K, seed=SEED, select="all")(**call, **CALL)
    assert torch.equal(as_tensor(out), stock("sd"))
    with pytest.raises(ValueError, match="latents must have 4 rows"):
        steer(sd.pipe, seed=SEED)(**sd.call, **CALL, latents=torch.zeros(1, 4, 8, 8))


def test_the_table_of_families_is_what_is_tested_here():
    assert parts(PAGE.read_text())[1] == table(shared)


def test_a_modular_pipeline_returns_its_state_or_what_is_asked_of_it():
    tiny = shared("sd3_modular")
    steered = steer(tiny.pipe, Tilt(brightness(tiny), scale=2), particles=3, seed=SEED)
    state = steered(**tiny.call, **CALL)
    assert state.get("images").shape == (1, 3, 16, 16)
    assert len(state.get("prompt_embeds")) == 3  # nobody's samples are left alone
    images, record = steered(**tiny.call, **CALL, output="images")
    assert torch.equal(images, state.get("images"))
    assert torch.equal(record.log_w, state.steering.log_w)
    assert images.shape[0] < record.samples.shape[1] == 3

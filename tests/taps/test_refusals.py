"""What can't be steered is refused, with the reason and the remedy."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from diffusers import (
    CosmosTextToWorldPipeline,
    CosmosVideoToWorldPipeline,
    KDPM2DiscreteScheduler,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
)
from diffusers.modular_pipelines.modular_pipeline import PipelineState

from fkdiff import Tilt, as_reward, steer
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
)
from tests.tiny import prepared
from tests.tiny.video import ltx


def test_kdpm2_is_refused_where_its_step_had_to_be_replaced(with_scheduler):
    sd = with_scheduler(KDPM2DiscreteScheduler, beta_end=0.2, num_train_timesteps=100)
    with pytest.raises(TapError, match="EulerDiscreteScheduler.from_config"):
        steer(sd.pipe, Tilt(brightness(sd), scale=2), particles=2, seed=1)(**sd.call, **CALL)
    assert torch.equal(
        as_tensor(steer(sd.pipe, particles=K, seed=SEED, select="all")(**sd.call, **CALL)),
        plain_call(sd),
    )


def test_modified_guidance_is_refused_by_those_who_ask_for_experts_alone(sd):
    call = {**sd.call, **CALL, "guidance_rescale": 0.7}
    steer(sd.pipe, Tilt(brightness(sd), scale=2), particles=2, seed=1)(**call)
    watch = Watching(lambda step: step.experts)
    with pytest.raises(TapError, match="turn off guidance_rescale"):
        steer(sd.pipe, watch, particles=2, seed=1)(**call)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0}, "particles must be at least 1"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"select": "worst"}, "select must be one of best, sample, all"),
    ],
)
def test_settings_out_of_range_are_refused(sd, settings, message):
    with pytest.raises(ValueError, match=message):
        steer(sd.pipe, **settings)


def test_a_reward_that_reads_something_else_is_refused_before_the_run(sd):
    reward = as_reward(lambda audio: audio.mean((1, 2)), name="loudness", inputs="audio")
    with pytest.raises(TapError, match="yields pixels, but the reward 'loudness' reads audio"):
        steer(sd.pipe, Tilt(reward), seed=1)(**sd.call, **CALL)
    with pytest.raises(TypeError, match="wrap a reward"):
        steer(sd.pipe, reward)
    of_images = as_reward(lambda pixels: pixels.mean((1, 2, 3)), name="brightness")
    with pytest.raises(TapError, match=r"WanPipeline yields video, .* take PerFrame\(reward\)"):
        steer(shared("wan").pipe, Tilt(of_images), seed=1)(**shared("wan").call, **CALL)


def test_noise_that_ltx_adds_while_decoding_is_refused():
    """An autoencoder that denoises is asked for its last step; noise of its own isn't weighed."""
    tiny = prepared(lambda: ltx(timestep_conditioning=True))
    call = {**tiny.call, **CALL, "decode_timestep": 0.05}
    steered = steer(tiny.pipe, Tilt(brightness(tiny), scale=0), particles=2, seed=SEED)
    with pytest.raises(TapError, match=r"decode_noise_scale=0\.0"):
        steered(**call)
    out = steered(**call, decode_noise_scale=0.0)
    assert out.steering.cost.decodes == 2
    given = {**tiny.rows(2), **CALL, "decode_timestep": 0.05, "decode_noise_scale": 0.0}
    plain = tiny.pipe(**given, generator=slot_generators(SEED, 1, 2))
    assert torch.equal(out.steering.samples[0], plain[0])


def without_parts(kind):
    """A pipeline that nothing was loaded into; refusals look at its class alone."""
    pipe = object.__new__(kind)
    vars(pipe)["scheduler"] = None
    return pipe


TWICE = "calls scheduler.step twice", "self.scheduler.step(", "self.scheduler._step_index -= 1"
FRAMES = "steps each frame by a scheduler of its own", "sample_schedulers[idx].step(", "noise_pred"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (CosmosTextToWorldPipeline, TWICE),
        (CosmosVideoToWorldPipeline, TWICE),
        (SkyReelsV2DiffusionForcingPipeline, FRAMES),
        (SkyReelsV2DiffusionForcingImageToVideoPipeline, FRAMES),
        (SkyReelsV2DiffusionForcingVideoToVideoPipeline, FRAMES),
    ],
)
def test_refused_families_name_a_line_of_diffusers_that_says_so(kind, says):
    reason, here, after = says
    with pytest.raises(TapError, match=reason) as refused:
        steer(without_parts(kind))
    path, line = re.search(r"(pipelines/[\w/]+\.py):(\d+)", str(refused.value)).groups()
    source = inspect.getsourcefile(kind)
    assert source.endswith(path)
    lines = Path(source).read_text().splitlines()
    assert here in lines[int(line) - 1]
    assert after in lines[int(line)]


def test_a_pipeline_without_a_scheduler_is_refused(sd):
    pipe = without_parts(type(sd.pipe))
    vars(pipe).pop("scheduler")
    with pytest.raises(TapError, match="StableDiffusionPipeline has no scheduler"):
        steer(pipe)


def test_what_a_modular_pipeline_keeps_in_its_blocks_is_refused():
    pipe = shared("sd3_modular").pipe
    with pytest.raises(TapError, match="inpaint with the classic pipeline"):
        steer(pipe)(prompt="a cat", mask_image=torch.ones(1, 1, 16, 16))
    with pytest.raises(TapError, match="pass its inputs by name"):
        steer(pipe)(state=PipelineState(), prompt="a cat")

"""Every set-up of `tests.tiny`, tapped: stock bits, exact lineages, nothing left behind.

The networks are tiny and random. Each pipeline is built once and must survive all its tests.
"""

import copy
import functools
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    CosmosTextToWorldPipeline,
    CosmosVideoToWorldPipeline,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from PIL import Image

import fkdiff.taps.decode
import fkdiff.taps.pipeline
from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.processes import predict_x0, sde_step
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.coefficients import prediction_type, separates_copies
from fkdiff.terms.reward import RewardError
from tests.taps.toy import Script, tap
from tests.tiny import SETUPS, Tiny, build, prepared
from tests.tiny.table import README, parts, table
from tests.tiny.video import ltx

K = 5
SEED = 7
CALL = {"num_inference_steps": 3, "output_type": "pt"}
FIRST_ORDER = (DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler)


@functools.cache
def shared(name: str) -> Tiny:
    """One pipeline a set-up for all its tests, so that each also shows that the others undid."""
    return build(name)


@functools.cache
def stock(name: str) -> torch.Tensor:
    """What the untouched pipeline draws with the generators that a steered run has."""
    return plain_call(shared(name))


def plain_call(tiny: Tiny, **more) -> torch.Tensor:
    generators = slot_generators(SEED, 1, K)
    return as_tensor(tiny.pipe(**{**CALL, **tiny.rows(K), **more}, generator=generators))


def as_tensor(output) -> torch.Tensor:
    return torch.as_tensor(np.asarray(samples(output)))


def samples(output):
    """A modular pipeline returns its whole state."""
    return output.get("images") if isinstance(output, PipelineState) else output[0]


def brightness(tiny: Tiny):
    return as_reward(lambda x: x.flatten(1).mean(1), name="brightness", inputs=tiny.inputs)


def assert_near(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    scale = float(exact.abs().max())
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance * scale)


def network(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


@pytest.fixture(params=SETUPS)
def name(request):
    stock(request.param)  # before anything is steered
    return request.param


def test_without_terms_it_is_the_stock_call(name):
    tiny = shared(name)
    out = steer(tiny.pipe, particles=K, seed=SEED, select="all")(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(out), stock(name))
    assert out.steering.trace and out.steering.complete


def test_scale_0_is_the_stock_call(name):
    tiny = shared(name)
    term = Tilt(brightness(tiny), scale=0)
    steered = steer(tiny.pipe, term, particles=K, seed=SEED, select="all", stochastic=False)
    out = steered(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(out), stock(name))
    assert out.steering.log_w.eq(0).all()
    # The reward has looked at what the pipeline then returns: nothing is decoded twice.
    assert out.steering.cost.decodes == K
    assert torch.equal(out.steering.samples[0].flatten(), channels_first(out).flatten())


def channels_first(output) -> torch.Tensor:
    """DiT and DDPM return arrays (n, h, w, 3) whatever they are asked."""
    if isinstance(samples(output), np.ndarray) and samples(output).ndim == 4:
        return as_tensor(output).movedim(-1, 1)
    return as_tensor(output)


def test_a_resampled_run_is_its_lineages_and_decodes_as_the_pipeline_does(name, monkeypatch):
    """Noise follows the lineage here; looking at estimates on the way must not disturb the run."""
    tiny = shared(name)
    rows = {0: [2, 0, 0, 4, 4], 1: [0, 1, 1, 3, 2]}
    script = Script(K, rows, slot_generators(SEED, 1, K))
    run = tap(tiny.pipe, script, {**CALL, **tiny.rows(K)}, key=tiny.count)
    decoded = []

    def seen(step):
        table = run.decode(step.x0, tiny.inputs)
        with monkeypatch.context() as patch:
            patch.setattr(fkdiff.taps.decode, "DECODERS", {})
            assert run.inputs == tiny.inputs
            own_tail = run.decode(step.x0, tiny.inputs)
        assert torch.equal(own_tail, table), f"step {step.index}"
        decoded.append(table)

    script.seen = seen
    out = run()
    lineage, plain = torch.tensor(rows[0])[rows[1]], stock(name)
    assert float((plain[0] - plain[2]).abs().max()) > 1e-3 * float(plain.abs().max())
    assert_near(as_tensor(out), plain[lineage], 1e-6)
    assert len(decoded) == 3
    assert torch.equal(decoded[-1].flatten(), channels_first(out).flatten())


def test_micro_batches_change_rounding_only(name):
    tiny = shared(name)
    steered = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=2)
    out = steered(**{**CALL, **tiny.call})
    assert_near(as_tensor(out), stock(name), 1e-5)
    assert out.steering.cost.denoiser_evaluations == tiny.halves * K * len(out.steering.trace)


def test_a_controlnet_is_micro_batched_and_its_residuals_join_up():
    tiny, seen = shared("sd_controlnet"), []
    hook = tiny.pipe.controlnet.register_forward_hook(lambda m, a, out: seen.append(len(out[1])))
    try:
        steered = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=2)
        out = steered(**{**CALL, **tiny.call})
    finally:
        hook.remove()
    assert seen == [4, 4, 2] * 3  # a guided pair for each particle
    assert_near(as_tensor(out), stock("sd_controlnet"), 1e-5)


def test_everything_is_put_back_when_a_reward_fails(name):
    assert_put_back(name, ZeroDivisionError, RewardError)


def test_everything_is_put_back_on_an_interrupt(sd):
    assert_put_back("sd", KeyboardInterrupt, KeyboardInterrupt)


def assert_put_back(name, error, raised):
    tiny = shared(name)
    before = dict(vars(tiny.pipe))
    kinds = [type(tiny.pipe.scheduler), type(network(tiny.pipe))]

    def failing(samples):
        raise error

    term = Tilt(as_reward(failing, inputs=tiny.inputs), scale=1)
    steered = steer(tiny.pipe, term, particles=2, seed=SEED)
    with pytest.raises(raised):
        steered(**{**CALL, **tiny.call})
    assert steered.partial is not None and not steered.partial.complete
    after = vars(tiny.pipe)
    assert after.keys() == before.keys()
    assert after["scheduler"] is before["scheduler"]
    assert [type(tiny.pipe.scheduler), type(network(tiny.pipe))] == kinds
    assert "decode" not in vars(getattr(tiny.pipe, "vae", None) or network(tiny.pipe))
    assert torch.equal(plain_call(tiny), stock(name))


class Watching:
    """A term without weight that does something at every transition."""

    needs, target, steers = frozenset(), "the law itself", False

    def __init__(self, action):
        self.action = action

    def start(self, rows):
        return {}

    def log_twist(self, step, state):
        self.action(step)
        return torch.zeros_like(step.log_w), state


def test_a_steered_call_inside_a_steered_call_disturbs_nothing(name):
    tiny = shared(name)
    inner = steer(tiny.pipe, Tilt(brightness(tiny), scale=3), particles=2, seed=1)
    other = {"output_type": "pt", **tiny.call, "num_inference_steps": 2}
    if "guidance_scale" in other:
        other["guidance_scale"] = 1.5
    alone, nested = inner(**other), []

    def action(step):
        if not step.final:
            nested.append(inner(**other))
            if tiny.cond is not None:
                experts.append(len(step.experts))

    experts = []
    outer = steer(tiny.pipe, Watching(action), particles=K, seed=SEED, select="all")
    assert torch.equal(as_tensor(outer(**{**CALL, **tiny.call})), stock(name))
    for out in nested:
        assert torch.equal(as_tensor(out), as_tensor(alone))
    assert set(experts) == ({tiny.halves} if tiny.cond is not None else set())


class Tilted:
    """What a term sees of a run that resamples at every chance."""

    def __init__(self, tiny):
        self.reward, self.copies = brightness(tiny), []

    def look(self, step):
        """Copies begin a step alike and must end it apart, unless it is the last."""
        rows = torch.arange(len(step.x))
        twins = (rows != step.parents).nonzero().flatten().tolist()
        for i, j in ((i, int(step.parents[i])) for i in twins):
            if torch.equal(step.x[i], step.x[j]) and not step.final:
                self.copies.append(float((step.x_next[i] - step.x_next[j]).abs().max()))


def test_a_tilted_run_resamples_and_its_copies_separate(name):
    tiny, seen = shared(name), Tilted(shared(name))
    steered = steer(
        tiny.pipe,
        Tilt(seen.reward, scale=1000),
        Watching(seen.look),
        particles=3,
        seed=SEED,
        resample=Resample(ess=None, window=(0, 1)),
    )
    out = steered(**{**CALL, **tiny.call, "num_inference_steps": 4})
    native = separates_copies(tiny.pipe.scheduler, {})
    assert (out.steering.settings["replaced_step"] is None) == native
    assert seen.copies and min(seen.copies) > 1e-3
    rewards = out.steering.rewards["brightness"]
    assert out.steering.latents.isfinite().all()
    assert as_tensor(out).flatten().mean() == pytest.approx(float(rewards.max()), abs=1e-5)


def assert_steps_are_the_paths(tiny: Tiny, steps) -> None:
    """Estimate, alpha and sigma are right where a solver of first order moves as they say."""
    scheduler = tiny.pipe.scheduler
    if "mask_image" in tiny.call or not isinstance(scheduler, FIRST_ORDER):
        return
    # Cosmos' own solver stops at sigma .002; the path goes on to the estimate.
    stops = scheduler.config.get("final_sigmas_type") == "sigma_min"
    for step in steps[: len(steps) - stops]:
        exact = sde_step(step.x, step.estimate(), step.path, eta=0).mean
        assert_near(step.x_next, exact, 1e-5)


def assert_experts_tell_the_estimate(tiny: Tiny, steps) -> None:
    """Correctors read scores off the experts: they and the path must give the step's estimate."""
    for step in steps:
        mixed = sum(e.b * e.output for e in step.experts)
        if "mask_image" not in tiny.call:  # there the estimate has the known part pasted in
            assert_near(estimate(tiny.pipe.scheduler, step, mixed), step.estimate(), 1e-4)


def estimate(scheduler, step, mixed):
    alpha, sigma = step.path.alpha, step.path.sigma
    if hasattr(scheduler, "precondition_outputs"):
        return scheduler.precondition_outputs(step.x, mixed, torch.tensor(sigma))
    told = predict_x0(step.x, mixed, alpha, sigma, prediction_type(scheduler))
    return told.clamp(-1, 1) if scheduler.config.get("clip_sample") else told


def first_experts(tiny, monkeypatch, **more):
    """Experts of the first transition, and how far they are from what moved the particles."""
    residuals = []
    original = fkdiff.taps.pipeline.split_guidance

    def spy(outputs, mixed, rows):
        pool = original(outputs, mixed, rows)
        sum_ = sum(e.b * e.output for e in pool)
        residuals.append(float((sum_ - mixed[:rows]).norm() / mixed[:rows].norm()))
        return pool

    monkeypatch.setattr(fkdiff.taps.pipeline, "split_guidance", spy)
    script = Script(2)
    tap(tiny.pipe, script, {**CALL, **tiny.rows(2), **more}, key=tiny.count)()
    assert_steps_are_the_paths(tiny, script.steps)
    assert_experts_tell_the_estimate(tiny, script.steps)
    assert max(residuals) < tiny.rounding
    return {e.name: e for e in script.steps[0].experts}


def test_experts_are_told_apart_and_their_weight_is_the_guidance(name, monkeypatch):
    tiny = shared(name)
    if tiny.cond is None:
        with pytest.raises(TapError, match="isn't a linear mixture"):
            first_experts(tiny, monkeypatch)
        return
    pool = first_experts(tiny, monkeypatch)
    if tiny.cond == 1:
        assert list(pool) == ["cond"] and pool["cond"].b == 1
        return
    assert pool["cond"].b == pytest.approx(tiny.cond, rel=1e-4)
    assert pool["uncond"].b == pytest.approx(1 - tiny.cond, rel=1e-4)
    key = "prompt" if "prompt" in tiny.call else "class_labels"
    other = tiny.other
    if tiny.count is None:
        other = [other] * 2 if key == "prompt" else other * 2
    changed = first_experts(tiny, monkeypatch, **{key: other})
    assert_near(changed["uncond"].output, pool["uncond"].output, 1e-6)
    assert not torch.allclose(changed["cond"].output, pool["cond"].output)


# What doesn't depend on the family is tested on one.


@pytest.fixture
def sd():
    stock("sd")
    return shared("sd")


@pytest.fixture
def with_scheduler(sd):
    """Stable Diffusion with another scheduler, put back after the test."""
    original = sd.pipe.scheduler

    def put(scheduler_class, **config):
        sd.pipe.scheduler = scheduler_class.from_config(original.config, **config)
        return sd

    yield put
    sd.pipe.scheduler = original


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


def test_the_readme_s_table_is_what_is_tested_here():
    assert parts(README.read_text())[1] == table(shared)


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


@pytest.mark.parametrize("kind", [CosmosTextToWorldPipeline, CosmosVideoToWorldPipeline])
def test_refused_families_name_a_line_of_diffusers_that_says_so(kind):
    with pytest.raises(TapError, match="calls scheduler.step twice") as refused:
        steer(without_parts(kind))
    path, line = re.search(r"(pipelines/[\w/]+\.py):(\d+)", str(refused.value)).groups()
    source = inspect.getsourcefile(kind)
    assert source.endswith(path)
    lines = Path(source).read_text().splitlines()
    assert "self.scheduler.step(" in lines[int(line) - 1]
    assert "self.scheduler._step_index -= 1" in lines[int(line)]


def test_a_pipeline_without_a_scheduler_is_refused(sd):
    pipe = without_parts(type(sd.pipe))
    vars(pipe).pop("scheduler")
    with pytest.raises(TapError, match="StableDiffusionPipeline has no scheduler"):
        steer(pipe)


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


def test_what_a_modular_pipeline_keeps_in_its_blocks_is_refused():
    pipe = shared("sd3_modular").pipe
    with pytest.raises(TapError, match="inpaint with the classic pipeline"):
        steer(pipe)(prompt="a cat", mask_image=torch.ones(1, 1, 16, 16))
    with pytest.raises(TapError, match="pass its inputs by name"):
        steer(pipe)(state=PipelineState(), prompt="a cat")

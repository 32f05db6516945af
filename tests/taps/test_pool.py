"""Pools on stock pipelines: bit-exact ends, `sample` with the same networks, refusals."""

import functools
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)

from fkdiff import Anneal, Correct, Product, Resample, RLGuidance, Tilt, as_reward, sample, steer
from fkdiff.taps import TapError
from tests.taps.pools import conditions, denoiser, grid_of, network_of, nudged, swapped
from tests.tiny import build

pytestmark = pytest.mark.filterwarnings("ignore:Correct")
K, SEED, G = 3, 4, 5.0
CALL = {"num_inference_steps": 4, "output_type": "latent"}
OFTEN = Resample(ess=1.0, window=(0, 1))


@functools.cache
def shared(name):
    """A tiny pipeline; "sd_v" is Stable Diffusion with velocity prediction."""
    tiny = build("sd" if name in ("sd_v", "sd_euler") else name)
    if name == "sd_v":
        tiny.pipe.scheduler.register_to_config(prediction_type="v_prediction")
    if name == "sd_euler":
        tiny.pipe.scheduler = EulerDiscreteScheduler.from_config(tiny.pipe.scheduler.config)
    return tiny


@functools.cache
def tuned(name):
    return nudged(network_of(shared(name).pipe))


def run(name, *terms, pipe=None, scheduler=None, **settings):
    """Every particle of a run, in the slots' order."""
    tiny = shared(name)
    pipe = pipe or tiny.pipe
    call = {**tiny.call, **CALL, **settings.pop("call", {})}
    if name in ("dit", "ddpm"):
        call["output_type"] = "np"
    settings = {"particles": K, "seed": SEED, "select": "all"} | settings
    before = pipe.scheduler
    try:
        pipe.scheduler = scheduler or before
        return steer(pipe, *terms, **settings)(**call).steering
    finally:
        pipe.scheduler = before


FAMILIES = ["sd", "sd_v", "sdxl", "sd3", "flux_cfg", "pixart", "dit", "ddpm", "wan"]


@pytest.mark.parametrize("name", FAMILIES)
def test_w_0_and_1_are_base_and_tuned_bit_for_bit(name):
    tiny, other = shared(name), tuned(name)
    base, mixed = run(name), run(name, RLGuidance(other, 1.5))
    with swapped(tiny.pipe, other):
        alone = run(name)
    for w, exact in ((0.0, base), (1.0, alone)):
        found = run(name, RLGuidance(other, w))
        assert torch.equal(found.latents, exact.latents)
        assert found.cost.denoiser_evaluations == exact.cost.denoiser_evaluations
    assert not torch.equal(base.latents, alone.latents)
    assert not torch.equal(mixed.latents, base.latents)
    assert mixed.cost.denoiser_evaluations == 2 * base.cost.denoiser_evaluations


def denoisers(name, *, other="a dog"):
    """Base, tuned and another prompt's experts, each alone, with the grid they live on."""
    pipe, made = shared(name).pipe, {}
    grid, times = grid_of(pipe.scheduler, CALL["num_inference_steps"])
    if hasattr(pipe.scheduler, "alphas_cumprod") and not hasattr(pipe.scheduler, "sigmas"):
        pipe.scheduler.init_noise_sigma = grid.levels[0][1]  # `sample` starts from that, exactly
    given = conditions(name, pipe, shared(name).call["prompt"], K)
    for branch, text in given.items():
        made[branch] = denoiser(network_of(pipe), text, times)
        made[f"tuned/{branch}"] = denoiser(tuned(name), text, times)
    made["other"] = denoiser(network_of(pipe), conditions(name, pipe, other, K)["cond"], times)
    return made, grid


def reward(x):
    return x.flatten(1).mean(1)


TILT = Tilt(as_reward(reward, name="mean", inputs="latents"), 3.0)
TERMS = {
    "cfg": lambda tuned, dog: (Correct(exponent=0.01),),
    "rl": lambda tuned, dog: (Correct(zeta=0.5), RLGuidance(tuned, 1.5)),
    "everything": (
        lambda tuned, dog: (
            RLGuidance(tuned, 0.6),
            Product(dog, 0.4),
            Anneal(0.9),
            TILT,
            Correct(exponent=0.01),
        )
    ),
    "ratio": (lambda tuned, dog: (Product(dog, 0.3, against="uncond"),)),
    "plain": (lambda tuned, dog: (RLGuidance(tuned, 1.5),)),
    "annealed": (lambda tuned, dog: (Anneal(0.9), RLGuidance(tuned, 0.6))),
}
FLOW_STARTS_IN_NOISE = {("sd3", "annealed")}


@pytest.mark.parametrize("pool", TERMS)
@pytest.mark.parametrize("name", ["sd", "sd_v", "sd_euler", "sd3"])
def test_a_pipeline_is_sample_with_its_own_networks(name, pool):
    made, grid = denoisers(name)
    corrected = any(isinstance(term, Correct) for term in TERMS[pool]("tuned", "other"))
    more = {"resample": OFTEN if corrected else None, "stochastic": None if corrected else False}
    if (name, pool) in FLOW_STARTS_IN_NOISE:
        with pytest.raises(TapError, match="sum to 1 where a run starts in pure noise"):
            run(name, *TERMS[pool](tuned(name), "a dog"), **more)
        return
    found = run(name, *TERMS[pool](tuned(name), "a dog"), **more)
    shape = tuple(found.latents.shape[2:])
    exact = sample(
        made,
        grid,
        *TERMS[pool]("tuned", "other"),
        shape=shape,
        guidance=G,
        particles=K,
        seed=SEED,
        select="all",
        **more,
    )
    scale = float(exact.latents.abs().max())
    torch.testing.assert_close(found.latents, exact.latents, rtol=0, atol=2e-4 * scale)
    torch.testing.assert_close(found.log_w, exact.log_w, rtol=1e-4, atol=1e-3)
    for mine, theirs in zip(found.trace, exact.trace, strict=True):
        assert torch.equal(mine.resampled, theirs.resampled)
        if corrected:
            torch.testing.assert_close(mine.variance, theirs.variance, rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("beta", [0.8, 1.3])
def test_a_start_wider_than_the_noise_level_is_in_log_z(beta):
    """Pipelines start from N(0, s^2), and every expert is taken to hold that law there.

    Two runs from one start that differ in s alone differ in log Z by n (1 - B) log of its ratio.
    """
    tiny, found = build("sd"), []
    shape = (K, 4, *[tiny.pipe.unet.config.sample_size] * 2)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    for scale in (1.0, 1.5):
        tiny.pipe.scheduler.init_noise_sigma = scale
        call = {"latents": start / scale}
        found.append(run("sd", Anneal(beta), Correct(), pipe=tiny.pipe, resample=None, call=call))
    torch.testing.assert_close(found[0].latents, found[1].latents, rtol=0, atol=1e-3)
    size = start[0].numel()
    exact = torch.full_like(found[0].log_w, size * (1 - beta) * math.log(1 / 1.5))
    torch.testing.assert_close(found[0].log_w - found[1].log_w, exact, rtol=1e-4, atol=1e-3)


ROWS = {"dit": 4, "pixart": 4, "flux_cfg": 4, "wan": 4, "ddpm": 2}  # evaluations a particle


@pytest.mark.parametrize("name", ROWS)
def test_corrected_pools_of_other_layouts(name):
    """Learned variances, two rows a particle, two calls a step, packed states, no text."""
    tilt = Tilt(as_reward(reward, name="mean", inputs="latents"), 0.1)
    terms = (RLGuidance(tuned(name), 1.3), Anneal(1.1), Correct(exponent=0.001), tilt)
    # Resampled copies of one particle would have increments that don't vary.
    found = run(name, *terms, resample=None)
    assert found.cost.denoiser_evaluations == ROWS[name] * K * len(found.trace)
    varying = [entry for entry in found.trace[:-1] if entry.alpha > 0]
    assert len(varying) > 1 and all((entry.variance > 0).all() for entry in varying)
    half = run(name, *terms, resample=None, micro_batch=2)
    assert half.cost.denoiser_evaluations == found.cost.denoiser_evaluations
    torch.testing.assert_close(half.latents, found.latents, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.log_w, found.log_w, rtol=1e-3, atol=1e-2)
    assert "base^-0.3" in found.target and "to the power 1.1" in found.target
    assert "corrector's SDE step" in found.settings["replaced_step"]


@pytest.mark.parametrize("scheduler", [HeunDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_solvers_of_order_two_are_corrected_once_a_transition(scheduler):
    name = "sd3" if "Flow" in scheduler.__name__ else "sd"
    config = shared(name).pipe.scheduler.config
    terms = (RLGuidance(tuned(name), 1.3), Correct())
    found = run(name, *terms, scheduler=scheduler.from_config(config), resample=None)
    assert len(found.trace) == 4
    varying = [entry for entry in found.trace[:-1] if entry.alpha > 0]
    assert all((entry.variance > 0).all() for entry in varying)


def test_another_pipeline_is_asked_with_its_own_text():
    tiny, other = build("sd"), build("sd").pipe
    other.unet = tuned("sd")
    for terms in ((lambda q: Product(q, 0.4, "uncond")), (lambda q: RLGuidance(q, 1.4))):
        by_pipeline, by_network = (run("sd", terms(q)).latents for q in (other, other.unet))
        assert torch.equal(by_pipeline, by_network)
        text = nudged(other.text_encoder, size=0.3)
        own, other.text_encoder = other.text_encoder, text
        assert not torch.allclose(run("sd", terms(other)).latents, by_network)
        other.text_encoder = own
    assert tiny.call == shared("sd").call


def test_a_function_is_an_expert_too():
    made, _ = denoisers("sd")
    prompt = run("sd", Product("a dog", 0.4, "uncond"))
    function = run("sd", Product(made["other"], 0.4, "uncond"))
    torch.testing.assert_close(function.latents, prompt.latents, rtol=1e-3, atol=1e-3)
    # Until the conditional half is known, both halves are asked about another prompt.
    spent = [found.cost.denoiser_evaluations for found in (function, prompt)]
    assert spent == [3 * K * 4, 3 * K * 4 + K]
    base = run("sd")
    assert not torch.allclose(prompt.latents, base.latents, atol=1e-2)


class Watching:
    """A term without weight that calls the same pipeline at every transition."""

    needs, target, steers = frozenset(), "the law itself", False

    def __init__(self, action):
        self.action = action

    def start(self, rows):
        return {}

    def log_twist(self, step, state):
        self.action(step)
        return torch.zeros_like(step.log_w), state


def test_calls_from_within_are_the_plain_pipelines():
    tiny = shared("sd")
    call = {**tiny.call, **CALL}

    def plain():
        return tiny.pipe(**call, generator=torch.Generator().manual_seed(1)).images

    alone, nested, experts = plain(), [], []

    def action(step):
        nested.append(plain())
        experts.append([e.name for e in step.experts])

    terms = (RLGuidance(tuned("sd"), 1.4), Anneal(1.1), Correct())
    found = run("sd", *terms, Watching(action))
    assert all(torch.equal(alone, image) for image in nested)
    assert torch.equal(found.latents, run("sd", *terms).latents)
    name = type(tuned("sd")).__name__
    assert sorted(experts[0]) == sorted(["uncond", f"{name}/uncond", "cond", f"{name}/cond"])
    assert all(names == experts[0] for names in experts)


NUDGED = {
    "in_channels": lambda: build("sd_inpaint_9").pipe.unet,
    "one architecture": lambda: build("sd3").pipe.transformer,
}


def other_pipeline(**config):
    pipe = build("sd").pipe
    pipe.scheduler.register_to_config(**config)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.register_to_config(**config)
    return pipe


REFUSED = {
    "Correct.. can't follow LCMScheduler": ("sd", [Correct()], {"scheduler": LCMScheduler()}),
    "Correct.. can't follow TCDScheduler": ("sd", [Correct()], {"scheduler": TCDScheduler()}),
    "Correct.. can't follow KDPM2": ("sd", [Correct()], {"scheduler": KDPM2DiscreteScheduler()}),
    "stochastic_sampling jumps": (
        "sd3",
        [Correct()],
        {"scheduler": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)},
    ),
    "guidance_rescale must be 0": ("sd", [Correct()], {"call": {"guidance_rescale": 0.7}}),
    "distilled into the network": ("flux", [Correct()], {}),
    "distilled into .* true_cfg_scale": ("flux", [Correct(), Anneal(1.2)], {}),
    "needs an unconditional branch": ("sd", [Correct()], {"call": {"guidance_scale": 1.0}}),
    "must start in noise": ("sd_img2img", [Correct()], {}),
    "keeps a part of one": ("sd_inpaint", [Correct()], {}),
    "have the same in_channels": ("sd", [lambda: RLGuidance(NUDGED["in_channels"](), 2)], {}),
    "have one architecture": ("sd", [lambda: Product(NUDGED["one architecture"](), 2)], {}),
    "have the same prediction type, got v_pred": (
        "sd",
        [lambda: Product(other_pipeline(prediction_type="v_prediction"), 0.5)],
        {},
    ),
    "have the same noise levels": (
        "sd",
        [lambda: RLGuidance(other_pipeline(beta_end=0.02), 0.5)],
        {},
    ),
    "a network or a pipeline here, got a_function": (
        "sd",
        [lambda: RLGuidance(a_function, 2)],
        {},
    ),
    "a function here, got the prompt": ("dit", [Product("a dog", 0.2)], {}),
    "positive sum, got -0.5": ("sd", [Product("a dog", -1.5)], {}),
    "whose moves are stochastic": ("sd", [Correct()], {"stochastic": False}),
    "constant in time with Correct": ("sd", [Correct(), RLGuidance("x", lambda t: t)], {}),
    "w must be finite": ("sd", [lambda: RLGuidance("x", float("nan"))], {}),
}


def a_function(x, alpha, sigma):
    return x


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_target_is_refused(message):
    name, terms, settings = REFUSED[message]
    pipe = shared(name).pipe
    before = dict(vars(pipe)), type(network_of(pipe))
    with pytest.raises(ValueError, match=message):
        run(name, *(t() if type(t).__name__ == "function" else t for t in terms), **settings)
    assert vars(pipe)["scheduler"] is before[0]["scheduler"]
    assert type(network_of(pipe)) is before[1]


def test_guidance_that_changes_on_the_way_is_refused():
    def lower(pipe, i, t, kwargs):
        pipe._guidance_scale = 3.0
        return kwargs

    with pytest.raises(TapError, match="guidance must be constant in time .* got 3 after 5"):
        run("sd", Correct(), call={"callback_on_step_end": lower})

"""Pools of experts on stock pipelines: bit-exact ends, the law of `sample`, and what is refused."""

import functools

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
from tests.taps.test_pipelines import as_tensor
from tests.tiny import build

pytestmark = pytest.mark.filterwarnings("ignore:Correct")
K, SEED, G = 3, 4, 5.0
CALL = {"num_inference_steps": 4, "output_type": "latent"}
OFTEN = Resample(ess=1.0, window=(0, 1))


@functools.cache
def shared(name):
    """A tiny pipeline; "sd_v" is Stable Diffusion with velocity prediction."""
    tiny = build("sd" if name == "sd_v" else name)
    if name.startswith("sd_"):
        config = {**tiny.pipe.scheduler.config, "prediction_type": "v_prediction"}
        tiny.pipe.scheduler = DDIMScheduler.from_config(config)
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
@pytest.mark.parametrize("name", ["sd", "sd_v", "sd3"])
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

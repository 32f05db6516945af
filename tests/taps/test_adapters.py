"""LoRA adapters as experts: switched, scaled, and put back with all that was set on them."""

import functools

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model

from fkdiff import Correct, RLGuidance, steer
from fkdiff.taps import TapError
from fkdiff.taps.adapters import adapter_layers
from tests.tiny import build

pytestmark = pytest.mark.filterwarnings("ignore:Correct")
CALL = {"num_inference_steps": 3, "output_type": "latent"}


@functools.cache
def tiny():
    """A tiny pipeline with two adapters; "style" is on at half its strength, "taste" is off."""
    made = build("sd")
    pipe = made.pipe
    for seed, name in enumerate(("taste", "style")):
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v", "proj_in"])
        pipe.unet.add_adapter(config, adapter_name=name)
        generator = torch.Generator().manual_seed(seed)
        for key, p in pipe.unet.named_parameters():
            if f".{name}." in key:
                p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))
    pipe.unet.requires_grad_(False)
    pipe.set_adapters(["style"], adapter_weights=[0.5])
    return made


def set_on(names, weights):
    pipe = tiny().pipe
    if not names:
        pipe.disable_lora()
        return
    pipe.enable_lora()
    pipe.set_adapters(names, adapter_weights=weights)


@pytest.fixture(autouse=True)
def _as_before():
    set_on(["style"], [0.5])
    tiny().pipe.unet.requires_grad_(False)


def draw(*terms, **settings):
    steered = steer(tiny().pipe, *terms, particles=2, seed=3, select="all", **settings)
    return steered(**{**tiny().call, **CALL}).steering.latents


def state():
    return [
        (list(x.active_adapters), x.disable_adapters, dict(x.scaling),
         [p.requires_grad for p in x.parameters()])
        for x in adapter_layers(tiny().pipe.unet)
    ]  # fmt: skip


def alone(names, weights):
    """What the untouched pipeline draws with these adapters."""
    set_on(names, weights)
    latents = draw()
    set_on(["style"], [0.5])
    return latents


def test_ends_are_base_and_tuned_beside_the_users_own_adapter():
    before = state()
    assert torch.equal(draw(RLGuidance("taste", 0.0)), alone(["style"], [0.5]))
    assert torch.equal(draw(RLGuidance("taste", 1.0)), alone(["style", "taste"], [0.5, 1.0]))
    # The only adapter that is on is the tuned one: the base is the bare network.
    assert torch.equal(draw(RLGuidance("style", 0.0)), alone([], []))
    assert torch.equal(draw(RLGuidance("style", 1.0)), alone(["style"], [0.5]))
    tiny().pipe.unet.requires_grad_(False)
    assert state() == before


def test_mixtures_are_linear_in_the_first_step_and_weights_are_another_model():
    steps = {"num_inference_steps": 1}
    CALL_1 = {**tiny().call, **CALL, **steps}

    def one(*terms):
        steered = steer(tiny().pipe, *terms, particles=2, seed=3, select="all")
        return steered(**CALL_1).steering.latents

    base, tuned = one(RLGuidance("taste", 0.0)), one(RLGuidance("taste", 1.0))
    torch.testing.assert_close(
        one(RLGuidance("taste", 1.7)), base + 1.7 * (tuned - base), rtol=1e-4, atol=1e-4
    )
    two = one(RLGuidance({"taste": 0.4, "style": 0.3}, 2.0))
    set_on([], [])
    bare, style, taste = one(), one(RLGuidance("style", 1.0)), one(RLGuidance("taste", 1.0))
    torch.testing.assert_close(
        two, bare + 0.8 * (taste - bare) + 0.6 * (style - bare), rtol=1e-4, atol=1e-4
    )


def test_weights_mode_scales_the_update_at_one_evaluation():
    term = RLGuidance("taste", 1.7, mode="weights")
    found = draw(term)
    assert torch.equal(found, alone(["style", "taste"], [0.5, 1.7]))
    assert not torch.equal(found, draw(RLGuidance("taste", 1.7)))
    scaled = RLGuidance("style", 2.0, mode="weights")  # on top of the user's half
    assert torch.equal(draw(scaled), alone(["style"], [1.0]))
    assert torch.equal(draw(RLGuidance("taste", 0.0, mode="weights")), alone(["style"], [0.5]))
    late = RLGuidance("taste", 1.7, mode="weights", interval=(0.5, 1))
    assert not torch.equal(draw(late), found)
    steered = steer(tiny().pipe, term, Correct(), particles=2, seed=3)
    assert steered(**{**tiny().call, **CALL}).steering.cost.denoiser_evaluations == 2 * 2 * 3


def test_everything_is_put_back_when_a_run_fails():
    before = state()

    def failing(pipe, i, t, kwargs):
        raise ZeroDivisionError

    steered = steer(tiny().pipe, RLGuidance("taste", 2.0), particles=2, seed=3)
    with pytest.raises(ZeroDivisionError):
        steered(**{**tiny().call, **CALL}, callback_on_step_end=failing)
    assert state() == before


def test_what_cannot_be_switched_is_refused():
    with pytest.raises(TapError, match="got 'none'; loaded: style, taste; load it: pipe.load"):
        draw(RLGuidance("none", 2.0))
    pipe = tiny().pipe
    pipe.unet.fuse_lora()
    try:
        with pytest.raises(TapError, match=r"must not be merged.*unfuse_lora"):
            draw(RLGuidance("taste", 2.0))
    finally:
        pipe.unet.unfuse_lora()
    with pytest.raises(TapError, match="loaded: none"):
        steer(build("sd").pipe, RLGuidance("taste", 2.0))(**tiny().call, **CALL)


def test_an_adapter_of_the_text_encoder_too_is_refused():
    made = build("sd")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    # peft's own call: that of transformers may ask for a newer peft than there is.
    inject_adapter_in_model(config, made.pipe.text_encoder, adapter_name="both")
    made.pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), adapter_name="both")
    with pytest.raises(TapError, match="'both' also changes text_encoder"):
        steer(made.pipe, RLGuidance("both", 2.0))(**made.call, **CALL)


def test_adapters_load_as_users_load_them(tmp_path):
    made = build("sd")
    state_dict = {
        f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_{side}.weight": value
        for side, value in (("A", torch.ones(2, 16) / 9), ("B", torch.ones(16, 2) / 9))
    }
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, {k.removeprefix("unet."): v for k, v in state_dict.items()}
    )
    made.pipe.load_lora_weights(tmp_path, adapter_name="mine")
    steered = steer(made.pipe, RLGuidance("mine", 2.0), particles=2, seed=3)
    assert steered(**made.call, **CALL).steering.cost.denoiser_evaluations == 2 * 2 * 2 * 3

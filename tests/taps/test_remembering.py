"""Networks that keep activations are refused with the remedy; plain wrappers are let through."""

import functools

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import SeaCacheConfig, TextKVCacheConfig

from fkdiff import steer
from fkdiff.taps import TapError
from tests.taps.setups import CALL, SEED, K, as_tensor, assert_near, network, shared, stock

CACHES = {
    "first block": FirstBlockCacheConfig,
    "faster": lambda: FasterCacheConfig(
        current_timestep_callback=lambda: 500, is_guidance_distilled=True
    ),
    "pyramid": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "taylor": TaylorSeerCacheConfig,
    "mag": lambda: MagCacheConfig(num_inference_steps=3, mag_ratios=[1.0, 1.0, 1.0]),
    "sea": SeaCacheConfig,
    "text": TextKVCacheConfig,
}


@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_is_refused_before_the_run_with_its_remedy(cache):
    tiny = shared("flux")
    calls = []
    hook = tiny.pipe.vae.register_forward_pre_hook(lambda *_: calls.append("decoded"))
    try:
        try:
            tiny.pipe.transformer.enable_cache(CACHES[cache]())
        except (ValueError, NotImplementedError) as error:
            pytest.skip(f"diffusers has no such cache for this network: {error}")
        with pytest.raises(TapError, match=r"call pipe.transformer.disable_cache\(\) first"):
            steer(tiny.pipe, particles=K, seed=SEED)(**{**CALL, **tiny.call})
        assert not calls
    finally:
        hook.remove()
        tiny.pipe.transformer.disable_cache()
    out = steer(tiny.pipe, particles=K, seed=SEED, select="all")(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(out), stock("flux"))


def wrapped(forward, kind):
    if kind == "any arguments":
        return lambda *args, **kwargs: forward(*args, **kwargs)
    if kind == "first named":
        return lambda state, *args, **kwargs: forward(state, *args, **kwargs)
    if kind == "partial":
        return functools.partial(forward)
    return functools.wraps(forward)(lambda *args, **kwargs: forward(*args, **kwargs))


KINDS = ["any arguments", "partial", "wraps"]
WRAPS = [(name, kind) for name in ("sd", "flux", "sd_controlnet") for kind in KINDS]


# Flux and the ControlNet are called by name alone, so that no argument can come first.
@pytest.mark.parametrize(("name", "kind"), [*WRAPS, ("sd", "first named")])
def test_a_wrapped_forward_is_called_as_it_was(name, kind, monkeypatch):
    tiny, drawn = shared(name), stock(name)
    for part in filter(None, [network(tiny.pipe), getattr(tiny.pipe, "controlnet", None)]):
        monkeypatch.setattr(part, "forward", wrapped(part.forward, kind))
    for micro_batch in (None, 2):
        run = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=micro_batch)
        assert_near(as_tensor(run(**{**CALL, **tiny.call})), drawn, 1e-5)


def test_a_block_that_is_only_wrapped_is_let_through(monkeypatch):
    tiny, drawn, seen = shared("sd"), stock("sd"), []
    for block in (tiny.pipe.unet.mid_block, *tiny.pipe.unet.up_blocks):
        monkeypatch.setattr(block, "forward", timed(block.forward, []))
    monkeypatch.setattr(
        tiny.pipe.unet.conv_in, "forward", timed(tiny.pipe.unet.conv_in.forward, seen)
    )
    run = steer(tiny.pipe, particles=K, seed=SEED, select="all")
    assert_near(as_tensor(run(**{**CALL, **tiny.call})), drawn, 1e-6)
    assert seen


def timed(forward, seen):
    def call(*args, **kwargs):
        seen.append("called")
        return forward(*args, **kwargs)

    return call


class Helper:
    """Answers from the last step every second time, as DeepCache does."""

    def __init__(self):
        self.step, self.kept = {}, {}

    def around(self, name, forward):
        def call(*args, **kwargs):
            self.step[name] = self.step.get(name, -1) + 1
            if self.step[name] % 2 == 0:
                self.kept[name] = forward(*args, **kwargs)
            return self.kept[name]

        return call


def in_a_default(forward):
    def call(*args, kept=[], **kwargs):  # noqa: B006 (to keep it)
        kept[:] = kept or [forward(*args, **kwargs)]
        return kept[0]

    return call


class Bound:
    """A forward that is a method of what keeps."""

    def __init__(self, forward):
        self.usual, self.kept = forward, None

    def forward(self, *args, **kwargs):
        self.kept = self.usual(*args, **kwargs) if self.kept is None else self.kept
        return self.kept


@pytest.mark.parametrize("way", ["helper", "one block", "default", "bound"])
def test_a_block_that_keeps_its_output_is_refused_and_says_why(monkeypatch, way):
    tiny, helper = shared("sd"), Helper()
    unet = tiny.pipe.unet
    blocks = [*unet.down_blocks, *unet.up_blocks] if way == "helper" else [unet.up_blocks[0]]
    for place, block in enumerate(blocks):
        replacement = {
            "default": in_a_default,
            "bound": lambda forward: Bound(forward).forward,
        }.get(way, lambda forward, place=place: helper.around(place, forward))
        monkeypatch.setattr(block, "forward", replacement(block.forward))
    with pytest.raises(TapError, match=r"DeepCache.*helper.disable\(\)"):
        steer(tiny.pipe, particles=2, seed=SEED)(**{**CALL, **tiny.call})
    # Several blocks that share a helper are refused before the run, one after its first call.
    assert helper.step == ({0: 0} if way == "one block" else {})

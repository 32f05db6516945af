"""What belongs to a prompt reaches that prompt's particles, in whatever form a call names it."""

import copy
import functools
import inspect

import numpy as np
import pytest
import torch

from fkdiff import steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from tests.taps.setups import CALL, SEED, as_tensor, assert_near, shared
from tests.tiny import SETUPS, Tiny, given, prepared
from tests.tiny.given import painted

TWO = ["a cat", "dog"]
K = 2

# What `encode_prompt` returns; those who call it twice, for the negative texts too, name one.
GUIDED = ("prompt_embeds", "negative_prompt_embeds")
POOLED = (*GUIDED, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKED = (
    *("prompt_embeds", "prompt_attention_mask"),
    *("negative_prompt_embeds", "negative_prompt_attention_mask"),
)
EMBEDDED = {
    "sd": GUIDED,
    "lcm": GUIDED,
    "sdxl": POOLED,
    "sd3": POOLED,
    "flux": ("prompt_embeds", "pooled_prompt_embeds"),
    "flux_cfg": ("prompt_embeds", "pooled_prompt_embeds"),
    "pixart": MASKED,
    "sana": MASKED,
    "cogvideox": GUIDED,
    "wan": GUIDED,
    "lumina2": MASKED,
    "qwenimage": ("prompt_embeds", "prompt_embeds_mask"),
    "kolors": POOLED,
    "auraflow": MASKED,
    "zimage": GUIDED,
    "ltx": MASKED,
    "mochi": MASKED,
    "cosmos2": GUIDED,
    "sd_img2img": GUIDED,
    "sdxl_inpaint": POOLED,
    "sd_controlnet": GUIDED,
}
PICTURED = {
    "sd_img2img": ("image",),
    "sdxl_img2img": ("image",),
    "flux_img2img": ("image",),
    "sd_inpaint": ("image", "mask_image"),
    "sd_inpaint_9": ("image", "mask_image"),
    "sdxl_inpaint": ("image", "mask_image"),
    "flux_inpaint": ("image", "mask_image"),
    "sd_controlnet": ("image",),
}
GIVEN = {
    "ltx": given.ltx_from_image,
    "wan": given.wan_from_image,
    "kandinsky": given.embedded_kandinsky,
}


# One image for all is encoded once, by the first row's generator.
SHARING = (
    "sdxl_img2img",
    "flux_img2img",
    "flux_control_img2img",
    "sd_inpaint",
    "sd_inpaint_9",
    "sdxl_inpaint",
    "flux_inpaint",
)


# A text's states depend on how far its neighbour's length makes the tokenizer pad it.
PADDING = ("audioldm2", "qwenimage")


@functools.cache
def built(name: str) -> Tiny:
    return prepared(GIVEN[name])


def together(tiny: Tiny, **more) -> torch.Tensor:
    """All particles of a steered call, none of them weighted."""
    out = steer(tiny.pipe, particles=K, seed=SEED, select="all")(**{**CALL, **tiny.call, **more})
    assert out.steering.log_w.shape == (2, K)
    return as_tensor(out)


def alone(tiny: Tiny, **both) -> torch.Tensor:
    """The untouched pipeline called for each prompt, with the generators of its particles."""
    streams, made = slot_generators(SEED, 2, K), []
    for place in range(2):
        own = {name: values[place] for name, values in both.items()}
        call = {**CALL, **tiny.call, **own}
        if tiny.count is None and "prompt" in call:
            call["prompt"] = [call["prompt"]] * K
        call |= {tiny.count: K} if tiny.count else {}
        generator = streams[place * K : (place + 1) * K]
        made.append(as_tensor(tiny.pipe(**call, generator=generator)))
    return torch.cat(made)


def of_both(tiny: Tiny) -> torch.Tensor:
    """The untouched pipeline called for both prompts at once."""
    rows = (
        {tiny.count: K, "prompt": TWO} if tiny.count else {"prompt": [TWO[0]] * K + [TWO[1]] * K}
    )
    negative = tiny.call.get("negative_prompt")
    if negative is not None:
        rows["negative_prompt"] = [negative] * len(rows["prompt"])
    call = copy.deepcopy({**CALL, **tiny.call, **rows})
    return as_tensor(tiny.pipe(**call, generator=slot_generators(SEED, 2, K)))


def parameters(tiny: Tiny) -> set[str]:
    return {*inspect.signature(type(tiny.pipe).__call__).parameters}


def encoded(tiny: Tiny, names: tuple[str, ...]) -> dict:
    """Two prompts as the pipeline's own call encodes them."""
    seen, encode = [], tiny.pipe.encode_prompt

    def watched(*args, **kwargs):
        seen.append(encode(*args, **kwargs))
        return seen[-1]

    tiny.pipe.encode_prompt = watched
    try:
        negative = tiny.call.get("negative_prompt")
        texts = {} if negative is None else {"negative_prompt": [negative] * 2}
        call = {**CALL, **tiny.call, "prompt": TWO, **texts, "num_inference_steps": 2}
        tiny.pipe(**copy.deepcopy(call), generator=slot_generators(SEED, 2, 1))
    finally:
        del tiny.pipe.encode_prompt
    found = dict(zip(names, seen[0], strict=False))
    for more in seen[1:]:
        found |= {f"negative_{name}": v for name, v in zip(names, more, strict=False)}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embeddings_in_place_of_prompts(name):
    tiny = shared(name)
    embeds = encoded(tiny, EMBEDDED[name])
    texts = dict.fromkeys({"prompt", "negative_prompt"} & parameters(tiny))
    exact = of_both(tiny) if name in SHARING else alone(tiny, prompt=TWO)
    assert_near(together(tiny, **texts, **embeds), exact, 1e-5)
    assert (exact[:K] - exact[K:]).abs().max() > 1e-3  # the other prompt's would be noticed


@pytest.mark.parametrize("name", [name for name in SETUPS if "prompt" in shared(name).call])
def test_two_prompts_are_drawn_as_each_alone(name):
    """Which families repeat masks of texts row by row, and embeddings prompt by prompt, shows."""
    tiny = shared(name)
    negative = tiny.call.get("negative_prompt")
    texts = {} if negative is None else {"negative_prompt": [negative] * 2}
    found = together(tiny, prompt=[*TWO], **texts)
    exact = of_both(tiny) if name in (*SHARING, *PADDING) else alone(tiny, prompt=TWO)
    assert_near(found, exact, 1e-5)


@pytest.mark.parametrize("name", PICTURED)
@pytest.mark.parametrize("form", ["tensor", "list"])
def test_each_prompt_has_its_own_images(name, form):
    tiny, both = shared(name), {}
    for key in PICTURED[name]:
        first = tiny.call[key]
        both[key] = [first, first.flip(-2) if key == "image" else 1 - first]
    whole = {k: torch.cat(v) if form == "tensor" else [x[0] for x in v] for k, v in both.items()}
    exact = alone(tiny, prompt=TWO, **both)
    assert_near(together(tiny, prompt=TWO, **whole), exact, 1e-5)
    one = alone(tiny, prompt=TWO)
    assert (exact[K:] - one[K:]).abs().max() > 3e-5 * exact.abs().max()
    assert torch.equal(exact[:K], one[:K])


def test_each_prompt_has_its_own_image_beside_its_embeddings():
    for name in ("sd_img2img", "sdxl_inpaint", "sd_controlnet"):
        tiny = shared(name)
        both = {"image": [tiny.call["image"], tiny.call["image"].flip(-2)]}
        embeds = encoded(tiny, EMBEDDED[name])
        found = together(tiny, prompt=None, **embeds, image=torch.cat(both["image"]))
        assert_near(found, alone(tiny, prompt=TWO, **both), 1e-5)


def test_each_prompt_has_its_own_negative_text():
    for name in ("sd", "cogvideox", "wan", "ltx"):
        tiny, negative = shared(name), ["grey", "loud"]
        exact = alone(tiny, prompt=TWO, negative_prompt=negative if name == "sd" else negative)
        assert_near(together(tiny, prompt=TWO, negative_prompt=negative), exact, 1e-5)


@pytest.mark.parametrize("name", ["ltx", "wan"])
def test_one_image_for_all_particles_of_two_prompts(name):
    tiny = built(name)
    assert_near(together(tiny, prompt=TWO), rowwise(tiny, [tiny.call["image"]] * 2), 1e-5)


def rowwise(tiny: Tiny, images: list) -> torch.Tensor:
    """One stock call for each particle: no list of generators needs any repeating."""
    streams, made = slot_generators(SEED, 2, K), []
    for row, generator in enumerate(streams):
        call = {**CALL, **tiny.call, "prompt": TWO[row // K], "image": images[row // K]}
        made.append(as_tensor(tiny.pipe(**call, generator=[generator])))
    return torch.cat(made)


def test_two_images_of_a_video_pipeline():
    images = [painted(32), painted(32, 120)]
    tiny = built("ltx")
    exact = rowwise(tiny, images)
    assert_near(together(tiny, prompt=TWO, image=images), exact, 1e-5)
    assert (exact - rowwise(tiny, images[:1] * 2)).abs().max() > 1e-3
    with pytest.raises(TapError, match="image must be one for all prompts"):
        together(built("wan"), prompt=TWO, image=[painted(16), painted(16, 120)])


@pytest.mark.parametrize("form", [torch.cat, list])
def test_prompts_that_are_embeddings_of_pictures(form):
    tiny = built("kandinsky")
    one = tiny.call["image_embeds"]
    both = {"image_embeds": [one, one.flip(-1)], "negative_image_embeds": [one * 0] * 2}
    exact = alone(tiny, **both)
    found = together(tiny, **{name: form(values) for name, values in both.items()})
    assert_near(found, exact, 1e-5)
    assert (exact[:K] - exact[K:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "form", [list, tuple, torch.tensor, np.array, lambda v: torch.tensor(v)[:, None]]
)
def test_labels_of_any_type(form):
    tiny = shared("dit")
    steered = steer(tiny.pipe, particles=K, seed=SEED, select="all")
    out = steered(**{**CALL, **tiny.call, "class_labels": form([1, 2])})
    exact = alone(tiny, class_labels=[[1] * K, [2] * K])
    assert_near(as_tensor(out), exact, 1e-5)
    assert out.steering.prompts == ["1", "2"]

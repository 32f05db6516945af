"""Alfie pipelines take the texts that stock ones take: embedded, or longer than is read."""

import inspect
from typing import Any

import pytest
import torch

import fkdiff.pipelines
from tests.tiny import build

CLASSES = {
    "sd": "AlfieStableDiffusionPipeline",
    "sdxl": "AlfieStableDiffusionXLPipeline",
    "pixart": "AlfiePixArtSigmaPipeline",
    "sd3": "AlfieStableDiffusion3Pipeline",
}
POOLED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
NEGATIVE = ("negative_prompt", "negative_prompt_2", "negative_prompt_3")
RETURNED = {
    "sd": POOLED[:2],
    "sdxl": POOLED,
    "sd3": POOLED,
    "pixart": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
}


@pytest.fixture(scope="module", params=CLASSES)
def alfie(request):
    tiny = build(request.param)
    more = {"requires_safety_checker": False} if request.param == "sd" else {}
    pipe: Any = getattr(fkdiff.pipelines, CLASSES[request.param])(**tiny.pipe.components, **more)
    pipe.set_progress_bar_config(disable=True)
    return request.param, pipe, {**tiny.call, "num_inference_steps": 2, "output_type": "pt"}


def embedded(name, pipe, call, negative):
    """The call with its prompt, and a negative one unless it is None, as embeddings."""
    wanted = {
        **{k: call["prompt"] for k in ("prompt", "prompt_2", "prompt_3")},
        **dict.fromkeys([] if negative is None else NEGATIVE, negative),
        "device": torch.device("cpu"),
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": True,
        "max_sequence_length": call.get("max_sequence_length"),
    }
    known = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        values = pipe.encode_prompt(**{k: v for k, v in wanted.items() if k in known})
    found = dict(zip(RETURNED[name], values, strict=True))
    kept = {k: v for k, v in found.items() if negative is not None or not k.startswith("neg")}
    rest = {k: v for k, v in call.items() if k != "prompt"}
    # PixArt takes its default, an empty text, for a negative prompt that was given too.
    return {**rest, **kept, "negative_prompt": None} if negative is not None else {**rest, **kept}


@pytest.mark.parametrize("negative", [None, "ugly"])
def test_embedded_prompts_draw_what_their_texts_draw(alfie, negative):
    name, pipe, call = alfie
    texts = call if negative is None else {**call, "negative_prompt": negative}
    given = pipe(**texts, seeds=[1])
    found = pipe(**embedded(name, pipe, call, negative), seeds=[1])
    assert torch.allclose(found.steering.latents, given.steering.latents, atol=1e-4)
    spent = [out.steering.cost.denoiser_evaluations for out in (found, given)]
    assert spent[0] == spent[1]  # the background's share of the call is the same
    assert found.images.shape == (1, 4, 16, 16)
    other = pipe(**{**texts, "prompt": "a dog"}, seeds=[1])
    assert not torch.allclose(other.steering.latents, given.steering.latents, atol=1e-2)


def test_long_prompts_are_cut_off_as_by_stock(alfie):
    _, pipe, call = alfie
    call = {k: v for k, v in call.items() if k != "max_sequence_length"}
    long = "a cat " * 80
    stock = pipe(**{**call, "prompt": long}, background=None).images
    assert stock.shape == (1, 3, 16, 16)
    assert pipe(**{**call, "prompt": long}, seeds=[1]).images.shape == (1, 4, 16, 16)

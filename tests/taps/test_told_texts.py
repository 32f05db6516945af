"""Embedded prompts with rewards that read texts, and runs that end early, are refused."""

import functools

import pytest
import torch

from fkdiff import Tilt, as_reward, steer
from fkdiff.refusals import reads_texts
from fkdiff.taps import TapError
from fkdiff.terms import load_reward
from tests.taps.setups import CALL, shared

SEEN = []
LENGTHS = as_reward(
    lambda images, prompts: (SEEN.extend(prompts), torch.tensor([float(len(p)) for p in prompts]))[
        1
    ],
    name="lengths",
)
MEAN = as_reward(lambda images: images.mean((1, 2, 3)), name="mean")
TEXTS = [LENGTHS, MEAN + 2 * LENGTHS, MEAN - LENGTHS.standardised(), load_reward("emoji-clip")]


def embedded(tiny, count=1):
    call = {**tiny.call, **CALL}
    text = call.pop("prompt")
    states = tiny.pipe.encode_prompt(text, "cpu", 1, True)[:2]
    names = ("prompt_embeds", "negative_prompt_embeds")
    return call | {n: torch.cat([s] * count) for n, s in zip(names, states, strict=True)}


@pytest.mark.parametrize("reward", TEXTS, ids=lambda reward: reward.name)
@pytest.mark.parametrize("place", ["tilt", "monitor"])
def test_a_reward_that_reads_texts_needs_them_beside_embeddings(reward, place):
    tiny = shared("sd")
    terms, more = ([Tilt(reward)], {}) if place == "tilt" else ([], {"monitor": [reward]})
    with pytest.raises(TapError, match=r"prompts must be given beside prompt_embeds: .*prompts="):
        steer(tiny.pipe, *terms, particles=2, seed=0, **more)(**embedded(tiny))


def test_texts_beside_embeddings_are_those_that_rewards_read():
    tiny = shared("sd")
    SEEN.clear()
    run = steer(tiny.pipe, Tilt(LENGTHS), particles=2, seed=0)
    out = run(**embedded(tiny, 2), prompts=["one", "three"])
    assert set(SEEN) == {"one", "three"} and out.steering.prompts == ["one", "three"]
    assert out.steering.rewards["lengths"].tolist() == [[3.0, 3.0], [5.0, 5.0]]


def test_a_reward_of_pictures_alone_needs_no_texts():
    tiny = shared("sd")
    assert not reads_texts(MEAN)
    steer(tiny.pipe, Tilt(MEAN), particles=2, seed=0)(**embedded(tiny))


def test_what_reads_texts():
    bound = functools.partial(lambda images, prompts: images.mean((1, 2, 3)), prompts=["a"])
    loose = as_reward(lambda images, prompts=None, **rest: images.mean((1, 2, 3)), name="loose")
    assert reads_texts(loose) and reads_texts(load_reward("emoji-vqa"))
    assert not reads_texts(as_reward(bound, name="bound"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompts": ["a", "b"]}, "a text for each of the 1 embedded prompts, got 2"),
        ({"prompts": "a", "prompt": "cat"}, "prompts must be left out where the call has"),
    ],
)
def test_texts_in_another_number_or_twice_are_refused(more, message):
    tiny = shared("sd")
    call = {**tiny.call, **CALL} if "prompt" in more else embedded(tiny)
    with pytest.raises(ValueError, match=message):
        steer(tiny.pipe, Tilt(LENGTHS), particles=2, seed=0)(**{**call, **more})


def test_a_run_that_would_end_early_is_refused_before_its_first_step():
    tiny, calls = shared("sdxl"), []
    handle = tiny.pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(TapError, match="denoising_end must be left out, got 0.5"):
            steer(tiny.pipe, Tilt(MEAN), particles=2, seed=0)(
                **{**tiny.call, **CALL}, denoising_end=0.5
            )
    finally:
        handle.remove()
    assert not calls

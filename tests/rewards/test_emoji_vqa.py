"""`emoji-vqa`, the bundled reward: right captions win over wrong ones, other texts are refused."""

import pytest
import torch

from fkdiff import zoo
from fkdiff.rewards import EmojiVQA
from fkdiff.terms import load_reward
from fkdiff.zoo.labels import read_sheet
from fkdiff.zoo.negatives import wrong_captions
from fkdiff.zoo.parse import parse


def test_pictures_that_people_say_are_met_have_higher_values_than_the_others() -> None:
    images, prompts, met = read_sheet(zoo.path("emoji-judge"))
    values, right = EmojiVQA()(images, prompts), torch.tensor(met)
    assert (values <= 0).all()
    above = (values[right][:, None] > values[~right]).double().mean()
    assert above > 0.75  # .5 for a reward that knows nothing


def test_values_go_with_what_people_say() -> None:
    """.72 by the worst clauses; a mean of the clauses, which right ones make up in, has .58."""
    images, prompts, met = read_sheet(zoo.path("emoji-judge"))
    values = EmojiVQA()(images, prompts)
    both = torch.stack([values.double(), torch.tensor(met).double()])
    assert float(both.corrcoef()[0, 1]) > 0.65


def test_a_right_caption_wins_over_one_wrong_in_a_thing() -> None:
    import numpy as np

    images, prompts, met = read_sheet(zoo.path("emoji-judge"))
    rng, reward, won = np.random.default_rng(0), EmojiVQA(), []
    for image, prompt, true in zip(images, prompts, met, strict=True):
        if true:
            texts = [prompt, *wrong_captions(parse(prompt), rng).values()]
            values = reward(image.expand(len(texts), -1, -1, -1), texts)
            won += (values[0] > values[1:]).tolist()
    assert sum(won) > 0.9 * len(won) > 90


def test_gradient_reaches_the_picture_and_the_constants_are_the_card_s() -> None:
    reward = EmojiVQA()
    image = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    reward(image, ["a cat on a red background"]).sum().backward()
    assert image.grad is not None and float(image.grad.abs().max()) > 0
    stated = zoo.card("emoji-vqa")["calibration"]
    assert (reward.mean, reward.sd) == (stated["mean"], stated["sd"])
    assert reward.differentiable and repr(reward) == "EmojiVQA()"


def test_prompts_that_are_no_captions_are_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match="'emoji-vqa' can't read a prompt: caption must be"):
        EmojiVQA()(torch.zeros(1, 3, 64, 64), ["a painting by nobody"])


def test_it_is_found_by_its_place() -> None:
    assert load_reward("fkdiff.rewards.emoji_vqa:EmojiVQA").name == "emoji-vqa"

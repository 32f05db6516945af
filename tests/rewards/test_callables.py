"""Any callable as a reward, its context, and errors that name reward, step and particles."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fkdiff.terms.reward import Reward, RewardError, Where, as_reward, evaluate

IMAGES = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
CONTEXT = {"prompts": ["a", "bb", "ccc", "dddd"], "obs": torch.arange(4.0)}
WHERE = Where(step=2, total=10, particles=[8, 9, 10, 11])


def no_context(images):
    return images.mean(dim=(1, 2, 3))


def lengths(images, prompts):
    return [len(prompt) for prompt in prompts]


def keyword_only(images, *, obs, missing=None):
    return obs


def everything(images, **context):
    return torch.full((len(images),), float(len(context)))


def named_like_context(prompts):
    return prompts.mean(dim=(1, 2, 3))


class Scorer:
    def __call__(self, images, prompts=None):
        return np.arange(len(images), dtype=np.float32)


@pytest.mark.parametrize(
    ("fn", "name", "expected"),
    [
        (no_context, "no_context", IMAGES.mean(dim=(1, 2, 3))),
        (lengths, "lengths", [1, 2, 3, 4]),
        (keyword_only, "keyword_only", [0, 1, 2, 3]),
        (everything, "everything", [2, 2, 2, 2]),
        (named_like_context, "named_like_context", IMAGES.mean(dim=(1, 2, 3))),
        (Scorer(), "Scorer", [0, 1, 2, 3]),
        (functools.partial(lengths, prompts=["x"] * 4), "lengths", [1, 1, 1, 1]),
        (lambda images: [torch.tensor(1.0)] * 4, "<lambda>", [1, 1, 1, 1]),
        (lambda images: images[:, 0, 0, 0] > -1, "<lambda>", [1, 1, 1, 1]),
    ],
)
def test_callables_get_the_context_they_name(fn, name, expected):
    reward = as_reward(fn)
    value = evaluate(reward, IMAGES, CONTEXT, WHERE)
    assert isinstance(reward, Reward)
    assert reward.name == name
    assert value.dtype == torch.float64
    assert torch.allclose(value, torch.as_tensor(expected, dtype=torch.float64))


def test_rewards_pass_through_and_protocol_objects_keep_their_constants():
    reward = as_reward(no_context)
    assert as_reward(reward) is reward
    foreign = SimpleNamespace(name="mine", differentiable=True, inputs="tokens", mean=1.0, sd=2.0)

    class Foreign(SimpleNamespace):
        def __call__(self, samples):
            return samples.sum(dim=1)

    taken = as_reward(Foreign(**vars(foreign)))
    assert (taken.name, taken.inputs, taken.mean, taken.sd) == ("mine", "tokens", 1.0, 2.0)
    assert torch.equal(evaluate(taken + 1, torch.ones(2, 3), CONTEXT), torch.tensor([4.0, 4.0]))
    with pytest.raises(ValueError, match="is a reward already"):
        as_reward(reward, name="other")


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_batches_cut_samples_and_their_context(size):
    sizes = []

    def fn(images, prompts, obs):
        sizes.append(len(images))
        assert len(images) == len(prompts) == len(obs)
        return [len(prompt) for prompt in prompts]

    value = as_reward(fn, batch_size=size)(IMAGES, **CONTEXT)
    assert value.tolist() == [1, 2, 3, 4]
    assert max(sizes) <= size
    assert sum(sizes) == 4


def test_modules_run_in_inference_mode_unless_differentiable():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images, prompts):
            assert len(prompts) == len(images)
            return self.weight * images.mean(dim=(1, 2, 3))

    value = as_reward(Mean())(IMAGES, **CONTEXT)
    assert not value.requires_grad
    assert not value.is_inference()
    x = IMAGES.clone().requires_grad_()
    evaluate(as_reward(Mean(), differentiable=True), x, CONTEXT).sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 1 / 75))


def test_random_modules_are_refused():
    with pytest.raises(ValueError, match=r"its Dropout would make.*\.eval\(\) first"):
        as_reward(nn.Sequential(nn.Flatten(), nn.Dropout()))
    as_reward(nn.Sequential(nn.Flatten(), nn.Dropout()).eval())


def test_pil_images_are_handed_over():
    def corner(images):
        assert images[0].size == (5, 5)
        return [image.getpixel((4, 0))[1] / 255 for image in images]

    reward = as_reward(corner, inputs="pil")
    assert reward.inputs == "pixels"
    assert "inputs='pil'" in repr(reward)
    assert torch.allclose(reward(IMAGES), IMAGES[:, 1, 0, 4].double(), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_reward(3), TypeError, "takes a callable, got 3"),
        (lambda: as_reward(Scorer), TypeError, r"got the class; write Scorer\(\.\.\.\)"),
        (lambda: as_reward(no_context, inputs="sound"), ValueError, "one of pixels.*got 'sound'"),
        (lambda: as_reward(no_context, batch_size=0), ValueError, "at least 1 or None, got 0"),
        (lambda: as_reward(no_context, sd=-1), ValueError, "sd must be positive and finite"),
    ],
)
def test_settings_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def returns(value):
    return as_reward(lambda images: value, name="bad")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            returns(torch.tensor([0.0, torch.nan, 1.0, torch.nan])),
            "^reward 'bad' returned NaN at step 3 of 10 for particles 9, 11; return a number",
        ),
        (
            returns([0.0, 0.0, float("inf"), 0.0]),
            "^reward 'bad' returned \\+inf at step 3 of 10 for particle 10;",
        ),
        (
            returns(torch.zeros(4, 1)),
            r"^reward 'bad' must return one number per sample, shape \(4,\), "
            r"got shape \(4, 1\) at step 3 of 10 for particles 8, 9, 10, 11$",
        ),
        (returns(1.5), r"shape \(4,\), got shape \(\) at step 3"),
        (returns([0.0, None, 0.0, 0.0]), "a tensor or a list of numbers, got .*None.* at step 3"),
        (returns("no"), "a tensor or a list of numbers, got 'no' at step 3"),
        (returns(torch.zeros(4, dtype=torch.complex64)), "must return real numbers"),
        (
            as_reward(lambda images: 1 / 0, name="broken"),
            "^reward 'broken' failed at step 3 of 10 for particles 8, 9, 10, 11: "
            "ZeroDivisionError: division by zero$",
        ),
        (
            as_reward(lambda images, masks: images, name="needy"),
            "^reward 'needy' needs context masks, the run gives obs, prompts at step 3",
        ),
    ],
)
def test_errors_name_reward_step_and_particles(reward, message):
    with pytest.raises(RewardError, match=message):
        evaluate(reward, IMAGES, CONTEXT, WHERE)
    with pytest.raises(RewardError, match=message):  # the part is named, not the sum
        evaluate(2 * reward + as_reward(no_context), IMAGES, CONTEXT, WHERE)


def test_exceptions_are_chained_and_memory_keeps_its_type():
    with pytest.raises(RewardError) as caught:
        evaluate(as_reward(lambda images: {}["x"], name="broken"), IMAGES)
    assert isinstance(caught.value.__cause__, KeyError)

    def full(images):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        evaluate(full, IMAGES, where=WHERE)
    assert caught.value.__notes__ == [
        "in reward 'full' at step 3 of 10 for particles 8, 9, 10, 11"
    ]


def test_minus_infinity_is_a_hard_constraint_but_no_excuse_for_nan():
    never = returns([0.0, float("-inf"), 0.0, 0.0])
    assert evaluate(never, IMAGES)[1] == -torch.inf
    assert evaluate(0.5 * never, IMAGES)[1] == -torch.inf
    with pytest.raises(RewardError, match=r"'bad - bad' returned NaN at step 3 of 10 .* 9;"):
        evaluate(never - never, IMAGES, where=WHERE)


def test_many_particles_are_told_briefly():
    assert (
        Where(0, 5, torch.arange(20)).at().endswith("particles 0, 1, 2, 3, 4, 5, 6, 7 and 12 more")
    )

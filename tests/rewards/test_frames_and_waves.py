"""Videos by frame and waveforms by spectrum: values that can be worked out by hand."""

import math

import pytest
import torch

from fkdiff import Tilt, steer
from fkdiff.rewards import (
    Brightness,
    JPEGSize,
    Loudness,
    PerFrame,
    SpectralCentroid,
    SpectralFlatness,
)
from fkdiff.terms.reward import Reward, RewardError, as_reward, evaluate, load_reward
from tests.tiny import build

LEVELS = torch.tensor([[0.1, 0.5, 0.9, 0.3], [0.2, 0.2, 0.8, 0.0]])
VIDEOS = LEVELS[:, :, None, None, None].expand(2, 4, 3, 6, 6)
RATE = 16_000
AUDIO = [Loudness(), SpectralCentroid(), SpectralFlatness()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LEVELS.mean(dim=1)),
        ({"over": "worst"}, LEVELS.amin(dim=1)),
        ({"every": 2}, LEVELS[:, [0, 2]].mean(dim=1)),
        ({"every": 3, "over": "worst"}, LEVELS[:, [0, 3]].amin(dim=1)),
    ],
)
def test_videos_are_judged_by_their_frames(settings, expected):
    reward = PerFrame(Brightness(), **settings)
    assert isinstance(reward, Reward)
    assert torch.allclose(evaluate(reward, VIDEOS), expected.double())


def test_frames_share_their_videos_prompt():
    told = {"a": 1.0, "b": 10.0}

    def fn(pixels, prompts, weight, note):
        assert note == "same for all"
        scale = torch.tensor([told[prompt] for prompt in prompts])
        return scale * weight * pixels.mean(dim=(1, 2, 3))

    context = {"prompts": ["a", "b"], "weight": torch.tensor([2.0, 3.0]), "note": "same for all"}
    value = evaluate(PerFrame(as_reward(fn, batch_size=3)), VIDEOS, context)
    assert torch.allclose(value, (LEVELS.mean(dim=1) * torch.tensor([2.0, 30.0])).double())


def test_a_wrapper_is_as_good_as_what_it_wraps():
    reward = PerFrame(Brightness(mean=0.4, sd=0.1), over="worst")
    assert (reward.name, reward.inputs) == ("worst frame of brightness", "video")
    assert (reward.mean, reward.sd, reward.differentiable) == (0.4, 0.1, True)
    assert not PerFrame(JPEGSize()).differentiable
    assert repr(reward) == "PerFrame(Brightness(mean=0.4, sd=0.1), over='worst')"
    assert repr(PerFrame("2 * fkdiff.rewards:Brightness", sd=3)) == (
        "PerFrame(2 * Brightness(), sd=3)"
    )
    assert repr(load_reward("fkdiff.rewards:Loudness")) == "Loudness()"
    videos = VIDEOS.clone().requires_grad_()
    PerFrame(Brightness(), over="worst")(videos).sum().backward()
    assert (videos.grad.abs().amax(dim=(2, 3, 4)) > 0).nonzero()[:, 1].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerFrame(Loudness()), "needs a reward of pixels, but 'loudness' reads audio"),
        (
            lambda: PerFrame(Brightness(), over="best"),
            "over must be 'mean' or 'worst', got 'best'",
        ),
        (lambda: PerFrame(Brightness(), every=0), "every must be at least 1, got 0"),
        (lambda: PerFrame(Brightness(), sd=0), "sd must be positive"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises((RewardError, ValueError), match=message):
        make()


def tone(hertz, amplitude=0.5, seconds=0.5):
    time = torch.arange(int(RATE * seconds)) / RATE
    return amplitude * torch.sin(2 * math.pi * hertz * time)


def test_loudness_is_in_decibels():
    quiet, loud = tone(440, 0.05), tone(440, 0.5)
    stereo = torch.stack([loud, torch.zeros_like(loud)])
    waves = torch.stack([quiet.expand(2, -1), loud.expand(2, -1), stereo])
    full = 10 * math.log10(0.5**2 / 2)
    expected = torch.tensor([full - 20, full, full - 10 * math.log10(2)])
    assert torch.allclose(Loudness()(waves), expected, atol=0.01)


def test_the_centroid_of_tones_is_their_mean_frequency():
    low, high = tone(1000), tone(3000)
    waves = torch.stack([low, high, low + high, low + 0.5 * high])[:, None]
    hertz = (RATE / 2 * SpectralCentroid())(waves)
    expected = torch.tensor([1000.0, 3000.0, 2000.0, 1000 + 2000 * 0.25 / 1.25]).double()
    assert torch.allclose(hertz, expected, atol=5)


def test_noise_is_flat_and_tones_are_not():
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(40 * RATE, generator=generator)
    pure = torch.cat([tone(2000, seconds=20), tone(2000, seconds=20)])
    flat, peaked = SpectralFlatness()(torch.stack([noise, pure])[:, None]).tolist()
    # The log of the mean of w windows' powers is low by 1 / 2w: 625 and more leave 0.9992.
    assert 0.995 < flat <= 1 and peaked < 0.01


def test_silence_and_short_sounds_have_their_stated_values():
    silent = torch.zeros(1, 1, 3000)
    assert [reward(silent).item() for reward in AUDIO] == pytest.approx([-120, 0, 1], abs=1e-4)
    assert all(torch.isfinite(reward(torch.ones(1, 1, 40))).all() for reward in AUDIO)


@pytest.mark.parametrize("reward", AUDIO, ids=lambda reward: reward.name)
def test_waves_are_scored_alone_and_give_gradients(reward):
    waves = torch.randn(3, 2, 4000, generator=torch.Generator().manual_seed(1)).requires_grad_()
    whole = reward(waves)
    whole.sum().backward()
    assert torch.isfinite(waves.grad).all() and waves.grad.abs().sum() > 0
    rows = torch.cat([evaluate(reward, wave[None].detach()) for wave in waves])
    assert torch.allclose(whole.double(), rows, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "reward"),
    [("wan", PerFrame(Brightness(), over="worst")), ("stable_audio", SpectralCentroid())],
    ids=["video", "audio"],
)
def test_pipelines_are_steered_by_them(name, reward):
    tiny = build(name)
    tilt = Tilt(reward, scale=50)
    steered = steer(tiny.pipe, tilt, particles=3, resample=None, seed=1, select="all")
    result = steered(**tiny.call, num_inference_steps=2).steering
    (values,) = result.rewards.values()
    assert torch.allclose(values[0], reward(result.samples[0]).double(), atol=1e-6)
    assert values.std() > 0
    assert torch.allclose(result.log_twist, 50 * values)

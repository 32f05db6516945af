"""Rewards of pixels alone have values that can be worked out by hand."""

import pytest
import torch

from fkdiff.rewards import Brightness, Colourfulness, JPEGSize
from fkdiff.terms.reward import Reward, evaluate

ALL = [Brightness(), Colourfulness(), JPEGSize()]


def plain(*colour, side=8):
    return torch.tensor(colour, dtype=torch.float32).reshape(1, 3, 1, 1).expand(1, 3, side, side)


def test_brightness_is_exact():
    images = torch.cat([plain(0, 0, 0), plain(1, 1, 1), plain(1, 0, 0), plain(0.5, 0.25, 1)])
    expected = [0, 1, 0.299, 0.299 * 0.5 + 0.587 * 0.25 + 0.114]
    assert torch.allclose(Brightness()(images), torch.tensor(expected))


def test_colourfulness_follows_its_formula():
    grey = torch.rand(2, 1, 9, 9).expand(2, 3, 9, 9)
    assert Colourfulness()(grey).abs().max() < 1e-4
    red = Colourfulness()(plain(1, 0, 0))  # opponents 255 and 127.5, no spread
    assert red.item() == pytest.approx(0.3 * (255**2 + 127.5**2) ** 0.5)
    half = plain(1, 0, 0).clone()
    half[..., :4] = plain(0, 0, 1)[..., :4]  # opponents (255, 127.5) and (0, -255)
    spread, centre = (127.5**2 + 191.25**2) ** 0.5, (127.5**2 + 63.75**2) ** 0.5
    assert Colourfulness()(half).item() == pytest.approx(spread + 0.3 * centre)


def test_jpeg_size_grows_with_noise_and_quality():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 48, 48, generator=generator)
    images = torch.stack([0.5 + level * noise for level in (0, 0.02, 0.05, 0.1, 0.2)]).clamp(0, 1)
    sizes = JPEGSize()(images)
    assert (sizes.diff() > 0).all()
    assert (JPEGSize(quality=95)(images) > sizes)[1:].all()
    assert evaluate(-JPEGSize(), images).argmax() == 0
    assert 0.5 < sizes[0] < 1.5  # kilobytes: little more than the header


@pytest.mark.parametrize("reward", ALL, ids=lambda reward: reward.name)
def test_rows_are_scored_alone(reward):
    images = torch.rand(5, 3, 16, 12)
    assert isinstance(reward, Reward)
    whole = evaluate(reward, images, {"prompts": ["x"] * 5})
    rows = torch.cat([evaluate(reward, image[None]) for image in images])
    assert torch.allclose(whole, rows, rtol=1e-6)


@pytest.mark.parametrize("reward", ALL[:2], ids=lambda reward: reward.name)
def test_gradients_are_finite_even_at_grey(reward):
    images = torch.cat([plain(0.5, 0.5, 0.5), torch.rand(1, 3, 8, 8)]).requires_grad_()
    assert reward.differentiable
    reward(images).sum().backward()
    assert torch.isfinite(images.grad).all()
    assert images.grad[1].abs().sum() > 0


def test_settings_are_checked_and_written():
    with pytest.raises(ValueError, match="quality must be from 1 to 95, got 100"):
        JPEGSize(quality=100)
    with pytest.raises(ValueError, match="sd must be positive"):
        Brightness(sd=0)
    assert repr(JPEGSize(quality=50, sd=2.0)) == "JPEGSize(quality=50, sd=2.0)"
    assert repr(Colourfulness()) == "Colourfulness()"

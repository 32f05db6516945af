"""Rewards of cut-outs: exact values, and steering on them."""

import pytest
import torch

from fkdiff import Cutout, Tilt, as_reward, steer
from fkdiff.rewards import Brightness, Coverage, EdgeSharpness, OverBackgrounds, Uncropped
from fkdiff.taps import TapError
from fkdiff.terms import RewardError, load_reward
from tests.tiny import build


def square(first=2, last=6, alpha=1.0):
    rgba = torch.zeros(1, 4, 8, 8)
    rgba[..., first:last, first:last] = torch.tensor([1.0, 0, 0, alpha])[:, None, None]
    return rgba


def test_values():
    assert Coverage()(square(alpha=0.5)).item() == 16 * 0.5 / 64
    assert EdgeSharpness()(square()).item() == pytest.approx(1)
    assert EdgeSharpness()(square(alpha=0.25)).item() == pytest.approx(0.25)
    assert EdgeSharpness()(torch.ones(1, 4, 8, 8)).item() == 0
    both = torch.cat([square(), square(0, 4)])
    assert Uncropped()(both).tolist() == [1, 0]
    with pytest.raises(ValueError, match="border"):
        Uncropped(border=0)


def test_composites_over_the_same_backgrounds_for_all():
    told = []

    def seen(pixels, prompts):
        told.append(prompts)
        return pixels.mean((1, 2, 3))

    reward = OverBackgrounds(seen, count=2)
    clear = torch.zeros(2, 4, 8, 8)
    values = reward(clear, prompts=["a cat on a white background", "a dog"])
    assert told[0] == ["a cat", "a dog"] and values[0] == values[1]
    assert 0.2 < values[0] < 0.8
    named = load_reward("over-backgrounds:brightness")
    assert named.name == "brightness over backgrounds" and named.inputs == "rgba"
    assert OverBackgrounds(Brightness())(clear).shape == (2,)
    with pytest.raises(RewardError, match="reads rgba"):
        OverBackgrounds(Coverage())


def test_steering_on_cut_outs():
    tiny = build("sd")
    shapes = []

    def covered(cutouts):
        shapes.append(tuple(cutouts.shape[1:]))
        return cutouts[:, 3].mean((1, 2))

    reward = as_reward(covered, name="covered", inputs="rgba", sd=0.02)
    call = {**tiny.call, "num_inference_steps": 4}
    steered = steer(tiny.pipe, Cutout(), Tilt(reward, 4), particles=4, seed=0)
    out = steered(**call, output_type="np")
    assert set(shapes) == {(4, 16, 16)} and out.images.shape == (1, 16, 16, 4)
    result = out.steering
    assert any(rows is not None for rows in result.rows)  # something was resampled
    assert result.samples.shape == (1, 4, 4, 16, 16)
    # What comes out is cut by the maps of the particle that it is.
    best = result.samples[0, result.selected[0, 0]]
    assert torch.allclose(torch.from_numpy(out.images[0]).movedim(-1, 0), best, atol=1e-5)
    assert result.target.startswith("heuristic: a subject inside a mask")
    with pytest.raises(TapError, match=r"add the term Cutout\(\)"):
        steer(tiny.pipe, Tilt(reward), particles=2, seed=0)(**call)

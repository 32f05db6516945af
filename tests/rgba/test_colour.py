"""The subject's colour at its edges: exact for two colours, no fringe where it is pasted."""

import pytest
import torch

from fkdiff.rgba import foreground_colour, over
from tests.rgba.pictures import RED, colour, disc, on

WHITE = torch.ones(3)


def two_colours() -> torch.Tensor:
    alpha = disc()
    return alpha * RED[:, None, None] + (1 - alpha) * WHITE[:, None, None]


@pytest.mark.parametrize("ground", [WHITE, None], ids=["known", "estimated"])
def test_exact_for_a_composite_of_two_colours(ground):
    alpha, picture = disc(), two_colours()
    found = foreground_colour(picture, alpha, ground)
    seen = alpha > 0
    assert torch.allclose(found[:, seen], RED[:, None].expand(-1, seen.sum()), atol=1e-4)
    # The picture's own colour is far off there.
    soft = (alpha > 0) & (alpha < 0.9)
    assert float((picture - RED[:, None, None]).abs()[:, soft].mean()) > 0.2


def test_a_colour_is_the_nearby_one_corrected_as_far_as_alpha_tells():
    r"""The minimum of |C - alpha F - (1 - alpha) B|^2 + tau^2 |F - near|^2, by its derivative."""
    alpha = torch.full((24, 24), 0.3)
    alpha[8:16, 8:16] = 0.9
    picture = alpha * RED[:, None, None] + (1 - alpha) * WHITE[:, None, None]
    spot = picture.clone()
    spot[:, 2, 2] -= 0.02  # far from the others' colour: what does alpha .3 make of it?
    before, after = (foreground_colour(c, alpha, WHITE)[:, 2, 2] for c in (picture, spot))
    change = -0.02 * 0.3 / (0.3**2 + 0.1**2)
    assert float((after - before - change).abs()[1:].max()) < 2e-3  # red is at its bound


def test_no_white_fringe_on_black():
    alpha, picture = disc(), on("plain")
    truth = over(torch.cat([colour(), alpha[None]]), torch.zeros(3, 1, 1))
    cut = torch.cat([foreground_colour(picture, alpha), alpha[None]])
    kept = torch.cat([picture, alpha[None]])  # as published
    errors = [float((over(x, torch.zeros(3, 1, 1)) - truth).abs().max()) for x in (cut, kept)]
    assert errors[0] < 0.05 < 0.2 < errors[1]


def test_an_empty_alpha_and_other_shapes():
    assert foreground_colour(on("plain"), torch.zeros(48, 48)).isfinite().all()
    with pytest.raises(ValueError, match=r"alpha must be \(h, w\)"):
        foreground_colour(on("plain"), torch.ones(3, 3))

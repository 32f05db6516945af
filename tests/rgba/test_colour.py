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

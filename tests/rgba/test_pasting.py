"""Pasting: exact where nothing is resized, whole where it is, refused where nothing would show."""

import numpy as np
import pytest
from PIL import Image

from fkdiff.rgba import paste


def picture(mode="RGB", size=(20, 10), colour=(0, 0, 255)):
    return Image.new(mode, size, colour)


def cutout(alpha=128):
    values = np.zeros((10, 10, 4), np.uint8)
    values[2:8, 2:8] = (255, 0, 0, alpha)
    return Image.fromarray(values, "RGBA")


def test_it_is_over_the_background_where_it_was_put():
    out = np.asarray(paste(picture(), cutout(), at=(0.75, 0.5), scale=1)).astype(int)
    assert out.shape == (10, 20, 3)
    expected = np.zeros((10, 20, 3), int)
    expected[..., 2] = 255
    expected[2:8, 12:18] = (128, 0, 127)
    assert abs(out - expected).max() <= 1


def test_a_background_with_alpha_keeps_it_and_edges_may_leave_the_picture():
    clear = picture("RGBA", colour=(0, 0, 255, 0))
    out = np.asarray(paste(clear, cutout(255), at=(0.0, 0.5), scale=1))
    assert out[5, 0].tolist() == [255, 0, 0, 255] and out[5, 15, 3] == 0


def test_resizing_bleeds_no_hidden_colour():
    out = np.asarray(paste(picture(size=(64, 64), colour=(255, 255, 255)), cutout(255), scale=0.9))
    assert out[..., 0].min() == 255  # red on white: the invisible black never shows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cutout": picture()}, "alpha channel"),
        ({"scale": 0}, "scale must be positive"),
        ({"at": (3, 0.5)}, "at must put the cut-out into the picture"),
    ],
)
def test_bad_input_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        paste(**{"background": picture(), "cutout": cutout(), **change})

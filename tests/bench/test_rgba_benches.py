"""Benches of cut-outs: fields with stand-ins for art, model and judge."""

import numpy as np
import pytest
import torch

from fkdiff.bench import alpha, cutout_sheet, rgba
from fkdiff.zoo.composites import GROUNDS, composites
from tests.tiny import build


@pytest.fixture
def art():
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.clip(15 - np.hypot(y, x), 0, 1)[..., None]
    return {"disc": np.concatenate([disc * 0 + [0.9, 0.1, 0.2], disc], -1).astype(np.float32)}


def test_alpha(art, monkeypatch):
    monkeypatch.setattr(alpha, "QUICK", 2)
    monkeypatch.setattr(alpha, "METHODS", {"default": None})
    monkeypatch.setattr(alpha, "fetched_art", lambda: None)
    monkeypatch.setattr(alpha, "load_unseen", lambda tarball: art)
    found = alpha.run(quick=True, seed=0)
    assert found["iou"]["default"].keys() == set(GROUNDS)
    assert found["iou"]["default"]["plain"]["mean"] > 0.95
    assert found["sad"]["default"]["plain"]["mean"] < 30
    error = found["colour_error"]
    assert error["with"] < error["without"] / 3 and error["plain"].keys() == {
        "with",
        "without",
        "end_to_end",
    }


def test_composites_are_what_they_say(art):
    for kind in GROUNDS:
        (case,) = composites(art, kind, 1, seed=3)
        share = case.alpha[..., None]
        mixed = share * case.colour + (1 - share) * case.ground
        assert abs(mixed - case.image).max() <= 0.5 / 255 + 1e-6
        assert case.alpha[0].max() == 0 and case.alpha.max() == 1


class StandIn:
    def passes(self, images, prompts):
        return [bool(image.mean() > 0.3) for image in images]


@pytest.fixture
def stood_in(monkeypatch):
    pipe = build("sd").pipe
    monkeypatch.setattr(rgba, "QUICK", (3, 2))
    monkeypatch.setattr(rgba, "emoji", lambda: pipe)
    monkeypatch.setattr(rgba, "judge", StandIn)
    monkeypatch.setattr(rgba, "models", dict)
    monkeypatch.setattr(rgba, "SIZE", 16)
    monkeypatch.setattr(rgba, "_memory", lambda steps, seed: {"plain": 10.0, "alfie": 11.0})
    monkeypatch.setattr(cutout_sheet, "emoji", lambda: pipe)
    return pipe


def test_rgba(stood_in, tmp_path):
    found = rgba.run(quick=True, seed=0, resume=tmp_path / "calls.jsonl")
    assert found["cropped"].keys() == {"plain", "alfie"}
    assert found["judge"].keys() == {"plain", "composite"}
    assert found["memory_ratio"] == 1.1 and found["time_ratio"] > 0
    again = rgba.run(quick=True, seed=0, resume=tmp_path / "calls.jsonl")
    assert again == found  # nothing is drawn twice, times included


def test_touching_the_frame():
    cut = torch.zeros(3, 4, 8, 8)
    cut[0, 3, 2:6, 2:6] = 1
    cut[1, 3, 2:6, 2:] = 1
    cut[2, 3, 2:6, 2:] = 0.4
    assert rgba.touches(cut) == [False, True, False]


def test_the_sheet_shows_all_twice():
    cutouts = torch.zeros(24, 4, 16, 16)
    cutouts[:, 3, 4:12, 4:12] = 1
    image = cutout_sheet.sheet(cutouts)
    assert image.size == (2 * 2 * 6 * 16, 2 * 4 * 16)
    assert image.getpixel((16, 16)) == (0, 0, 0) == image.getpixel((2 * 6 * 16 + 16, 16))

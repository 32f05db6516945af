"""Alpha by every method, on pictures whose alpha is known."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fkdiff.rgba import Thresholds, alpha, cut_out, matting
from fkdiff.rgba.ground import blurred
from tests.rgba.pictures import GROUNDS, colour, disc, on, rough


def iou(found, truth):
    one, two = found >= 0.5, truth >= 0.5
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.parametrize("kind", GROUNDS)
def test_default_finds_whole_subjects_with_soft_edges(kind):
    truth = disc()
    prior = rough(truth)
    found = alpha(on(kind), prior)
    assert iou(found, truth) > 0.97
    soft = (truth > 0.1) & (truth < 0.9)
    assert float((found - truth).abs()[soft].mean()) < 0.1
    # The prior alone, and a hard mask, are worse: the test can fail.
    enlarged = torch.nn.functional.interpolate(prior[None, None], (48, 48), mode="bicubic")[0, 0]
    assert iou(enlarged, truth) < 0.9
    assert float(((truth > 0.5).float() - truth).abs()[soft].mean()) > 0.2


def test_a_known_ground_and_a_larger_picture():
    size = 300  # above the size at which pixels are told apart
    truth = disc(size, radius=80)
    picture = truth * colour(size) + (1 - truth) * torch.ones(3, 1, 1)
    found = alpha(picture, rough(truth), ground=torch.ones(3))
    assert found.shape == (size, size)
    assert iou(found, truth) > 0.97


def test_a_wider_edge_follows_a_blurred_picture():
    truth = blurred(disc()[None], 1.5)[0]
    picture = truth * colour() + (1 - truth) * torch.ones(3, 1, 1)
    errors = [
        float((alpha(picture, rough(truth), edge=edge) - truth).abs().sum()) for edge in (1, 3)
    ]
    assert errors[1] < 0.6 * errors[0]


def test_a_hole_is_kept_and_a_like_coloured_part_is_not_made_one():
    truth = disc()
    eye = disc(48, 4.0) > 0.5
    prior = rough(truth, noise=0)
    white = GROUNDS["plain"](48)
    with_eye = torch.where(eye, white, on("plain"))  # the background's colour, prior high
    assert alpha(with_eye, prior)[eye].mean() > 0.9
    ring = torch.where(eye, torch.tensor(0.0), truth)
    low = torch.nn.functional.interpolate(prior[None, None], (48, 48), mode="bilinear")[0, 0]
    low = torch.where(disc(48, 7.0) > 0.5, torch.tensor(0.0), low)
    assert alpha(torch.where(eye, white, on("plain")), low)[eye].mean() < 0.1
    assert ring.min() == 0


@pytest.mark.parametrize("method", ["grabcut", "alfie"])
def test_grabcut(method):
    pytest.importorskip("cv2")
    truth = disc()
    found = alpha(on("plain"), rough(truth), method)
    assert iou(found, truth) > 0.9
    assert found.min() == 0 and found.max() <= 1


def test_pymatting_gets_a_trimap_of_the_prior(monkeypatch):
    given = {}

    def estimate(image, trimap):
        given.update(image=image, trimap=trimap)
        return trimap

    stand_in = SimpleNamespace(estimate_alpha_cf=estimate, estimate_alpha_knn=estimate)
    monkeypatch.setitem(sys.modules, "pymatting", stand_in)
    truth = disc()
    found = alpha(on("plain"), truth, "closed-form", Thresholds(sure=0.9, unlikely=0.05))
    assert set(np.unique(given["trimap"])) == {0.0, 0.5, 1.0}
    assert given["image"].shape == (48, 48, 3)
    assert torch.equal(found == 1, truth > 0.9)
    alpha(on("plain"), truth, "knn")


def test_vitmatte_pads_and_crops(tmp_path):
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

    backbone = VitDetConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_channels=4,
        out_features=["stage1"],
    )
    config = VitMatteConfig(
        backbone_config=backbone, hidden_size=8, convstream_hidden_sizes=[4, 4, 4],
        fusion_hidden_sizes=[8, 8, 8, 8],
    )  # fmt: skip
    VitMatteForImageMatting(config).save_pretrained(tmp_path)
    truth = disc()[:40]
    found = alpha(on("plain")[:, :40], truth, f"vitmatte:{tmp_path}")
    assert found.shape == (40, 48)
    assert (found[truth > 0.8] == 1).all() and (found[truth <= 0.1] == 0).all()


def test_any_callable():
    def remove(image):  # as rembg's
        return image.convert("RGBA")

    picture = on("plain")
    assert torch.equal(alpha(picture, torch.eye(2), remove), torch.ones(48, 48))
    as_array = alpha(picture, torch.eye(2), lambda image: np.full((48, 48), 0.25))
    assert float(as_array.mean()) == 0.25
    with pytest.raises(ValueError, match="alpha of the image's size"):
        alpha(picture, torch.eye(2), lambda image: np.ones((3, 3)))


def test_alpha_is_kept_through_png(tmp_path):
    cut = cut_out(on("plain"), rough(disc()))
    values = (255 * cut + 0.5).byte().movedim(0, -1).numpy()
    Image.fromarray(values, "RGBA").save(tmp_path / "cut.png")
    back = np.asarray(Image.open(tmp_path / "cut.png"))
    assert back.shape == (48, 48, 4) and np.array_equal(back, values)
    assert len(np.unique(back[..., 3])) > 10


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: alpha(p[0], p[0]), "image must be"),
        (lambda p: alpha(p, torch.ones(4, 4)), "the same value everywhere"),
        (lambda p: alpha(p, torch.full((2, 2), torch.nan)), "finite"),
        (lambda p: alpha(p, torch.eye(2), "magic"), "method must be one of default"),
        (lambda p: alpha(p, torch.eye(2), edge=0), "edge must be at least 1"),
        (lambda p: Thresholds(sure=0.2), "thresholds must be in order"),
        (lambda p: Thresholds(unlikely=0.4), "thresholds must be in order"),
        (lambda p: matting.trimap_of(torch.ones(4, 4), 0.8, 0.1), "some background known"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(on("plain"))


@pytest.mark.parametrize(("method", "package"), [("grabcut", "opencv"), ("knn", "pymatting")])
def test_a_missing_extra_is_named_with_its_command(method, package, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'fkdiff\[matting\]'"):
        alpha(on("plain"), disc(), method)

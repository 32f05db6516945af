"""OpenCLIP against open_clip's own computation, on a tiny model in its local format."""

import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torchvision.transforms.functional import to_pil_image

from fkdiff import zoo
from fkdiff.rewards import OpenCLIP, text_image
from fkdiff.rewards.preprocess import ImageSettings, preprocess
from fkdiff.terms.reward import RewardError, evaluate
from tests.rewards.images import photos

PROMPTS = ["a cat", "a pizza on a red background", "a cat"]
MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-clip")
    weights = open_clip.model.CLIP(**MODEL).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("height", "width"), [(32, 32), (70, 90), (20, 24)])
def test_equals_open_clip(folder, height, width):
    location = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(location)
    tokens = open_clip.get_tokenizer(location)(PROMPTS)
    images = photos(height, width)
    with torch.no_grad():
        theirs = model.eval().encode_image(
            torch.stack([transform(to_pil_image(image)) for image in images]), normalize=True
        )
        expected = (theirs * model.encode_text(tokens, normalize=True)).sum(dim=1)
    value = evaluate(OpenCLIP(str(folder)), images, {"prompts": PROMPTS})
    tolerance = 1e-6 if height == 32 else 5e-3  # Pillow rounds what it resizes to 8 bits
    assert torch.allclose(value, expected.double(), atol=tolerance)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("shape", [(70, 91), (19, 27)])
def test_preprocessing_follows_pillow(mode, interpolation, size, shape):
    settings = {
        "size": size,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.2, 0.5),
        "interpolation": interpolation,
        "resize_mode": mode,
        "fill_color": 51,
    }
    images = photos(*shape)
    theirs = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    expected = torch.stack([theirs(to_pil_image(image)) for image in images])
    difference = preprocess(images, ImageSettings(**settings)) - expected
    levels = 255 * (difference * torch.tensor(settings["std"])[:, None, None]).abs()
    assert levels.max() < 1.6  # two passes, each rounded to half a level


def test_prompts_are_encoded_once_and_loading_waits(folder, monkeypatch):
    reward = OpenCLIP(str(folder), batch_size=2)
    assert reward._loaded is None
    reward.prepare()
    seen = []
    tokenizer = reward._loaded.tokenizer
    object.__setattr__(reward._loaded, "tokenizer", lambda t: [seen.extend(t), tokenizer(t)][1])
    whole = reward(photos(40, 40), prompts=PROMPTS)
    assert torch.allclose(reward(photos(40, 40)[1:], prompts=PROMPTS[1:]), whole[1:], atol=1e-6)
    assert sorted(seen) == sorted(set(PROMPTS))
    assert whole.shape == (3,)
    assert not whole.requires_grad


def test_gradients_reach_the_images(folder):
    x = photos(40, 40).requires_grad_()
    OpenCLIP(str(folder))(x, prompts=PROMPTS).sum().backward()
    assert x.grad.abs().sum() > 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "judges images by prompts, got none; pass prompts="),
        ([], "judges images by prompts, got none"),
        (["a"], "a list of 3 prompts, one per image, got 1"),
        ("cat", "a list of 3 prompts, one per image, got the string 'cat'"),
    ],
)
def test_prompts_are_checked(folder, prompts, message):
    with pytest.raises(RewardError, match=message):
        OpenCLIP(str(folder))(photos(32, 32), prompts=prompts)


def test_names_are_checked_before_anything_is_loaded(folder, tmp_path):
    for model, pretrained, message in [
        ("ViT-B-32", None, "needs weights; give pretrained=, one of: openai, "),
        ("ViT-B-32", "opnai", "'opnai' is neither a file nor a tag of ViT-B-32; its tags: openai"),
        ("ViT-B-32/opnai", None, "neither a file nor a tag"),
        ("ViT-B-99", None, "knows no model 'ViT-B-99'; name an architecture"),
        (str(folder), "openai", "brings its own; leave pretrained out"),
        (f"local-dir:{tmp_path}", None, "has no open_clip_config.json"),
    ]:
        with pytest.raises(RewardError, match=message):
            OpenCLIP(model, pretrained)
    config = tmp_path / "open_clip_config.json"
    config.write_text("{}")
    with pytest.raises(RewardError, match="it has no 'model_cfg'"):
        OpenCLIP(str(tmp_path))
    config.write_text('{"model_cfg": {}}')
    with pytest.raises(RewardError, match="has no weights; add open_clip_model.safetensors"):
        OpenCLIP(str(tmp_path))


def test_written_as_it_was_made(folder):
    both = OpenCLIP("ViT-B-32", "openai", mean=0.2), OpenCLIP("ViT-B-32/openai", mean=0.2)
    assert [reward.name for reward in both] == ["openclip:ViT-B-32/openai"] * 2
    assert repr(both[0]) == "OpenCLIP('ViT-B-32', pretrained='openai', mean=0.2)"
    assert repr(both[1].to("cpu")) == "OpenCLIP('ViT-B-32/openai', device='cpu', mean=0.2)"
    assert OpenCLIP("hf-hub:owner/name").name == "hf-hub:owner/name"
    assert OpenCLIP(str(folder)).name == folder.name


def test_zoo_models_bring_their_constants(folder, monkeypatch):
    monkeypatch.setattr(zoo, "path", lambda name: folder, raising=False)
    monkeypatch.setattr(
        zoo, "card", lambda name: {"calibration": {"mean": 0.25, "sd": 0.06}}, raising=False
    )
    reward = text_image.emoji_clip()
    assert (reward.name, reward.mean, reward.sd) == ("emoji-clip", 0.25, 0.06)
    assert repr(reward) == "OpenCLIP('emoji-clip')"
    assert OpenCLIP("emoji-clip", mean=0.0).mean == 0.0
    assert reward(photos(32, 32), prompts=PROMPTS).shape == (3,)


def test_weights_that_cannot_be_loaded_are_one_clear_line(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        RewardError, match="can't be loaded .*; check the network and the name, or"
    ) as caught:
        OpenCLIP(str(tmp_path)).prepare()
    assert "\n" not in str(caught.value)


def test_weights_get_the_activation_they_were_trained_with(monkeypatch):
    class Loaded(Exception):
        pass

    def create_model(*args, **settings):
        raise Loaded(settings["force_quick_gelu"], settings["require_pretrained"])

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for tag, quick in [("openai", True), ("laion2b_s34b_b79k", False)]:
        with pytest.raises(Loaded) as caught:
            OpenCLIP("ViT-B-32", tag).prepare()
        assert caught.value.args == (quick, True)


def test_the_top_level_folder_cannot_be_imported_twice(monkeypatch):
    root = Path(text_image.__file__).parent.parent
    if not (root / "rewards").is_dir() or root.name == "fkdiff":
        root = root.parent
    if not (root / "rewards").is_dir():
        pytest.skip("installed from a wheel")
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    with pytest.raises(ImportError, match="use `import fkdiff.rewards`"):
        __import__("rewards")

"""Weights come from files and the Hub's cache by stock loaders, and say in one line if not."""

import json

import huggingface_hub.constants
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fkdiff.rewards import HPSv2, ImageReward, OpenCLIP, hps
from fkdiff.rewards.weights import absence, from_hub, locate, read_tensors
from fkdiff.terms.reward import RewardError
from tests.rewards.test_preferences import OPEN_CLIP, image_reward_tensors


class Unsafe:
    """What a pickle could run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a pickle was run')",))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty Hub cache; call it with repository and name for the place of a file."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def place(repository, name):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("0" * 40)
        file = folder / "snapshots" / ("0" * 40) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    return place


def test_files_of_the_hub_are_taken_from_its_cache(hub):
    source = "hf-hub:owner/name/heads/a.safetensors"
    assert "not here yet" in absence(source)
    with pytest.raises(RewardError, match=f"^{source} can't be loaded .*; check the network"):
        locate(source)
    save_file({"w": torch.ones(2, dtype=torch.float16)}, hub("owner/name", "heads/a.safetensors"))
    assert absence(source) is None and absence("hf-hub:owner/name") is None
    assert "not here yet" in absence("hf-hub:owner/name/heads/b.safetensors")
    assert "not here yet" in absence("hf-hub:owner/other")
    assert read_tensors(source)["w"].dtype == torch.float32


def test_the_published_checkpoints_are_read_as_tensors_alone(hub, monkeypatch):
    (config := hub("x/y", "tiny-published.json")).write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(config)
    monkeypatch.setattr(hps, "_ARCHITECTURE", "tiny-published")
    weights = open_clip.create_model("tiny-published").state_dict()
    file = hub("xswu/HPSv2", "HPS_v2.1_compressed.pt")
    torch.save({"state_dict": weights}, file)
    assert absence(HPSv2().weights[0]) is None
    loaded = HPSv2().load().model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    source = ImageReward().weights[0]
    tensors = image_reward_tensors()
    torch.save(tensors, file := hub("THUDM/ImageReward", "ImageReward.pt"))
    assert read_tensors(source, published=source).keys() == tensors.keys()
    torch.save({"w": Unsafe()}, file)
    with pytest.raises(RewardError, match="ImageReward.pt can't be loaded"):
        read_tensors(source, published=source)


def test_what_is_missing_or_broken_is_said(tmp_path):
    with pytest.raises(RewardError, match="^there is no file 'gone.safetensors'; a file of the H"):
        read_tensors("gone.safetensors")
    assert absence(str(tmp_path / "gone.safetensors")) == "there is no file gone.safetensors"
    with pytest.raises(RewardError, match="names no file; write hf-hub:owner/name/file"):
        locate("hf-hub:owner/name")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(RewardError, match="bad.safetensors can't be loaded"):
        read_tensors(str(tmp_path / "bad.safetensors"))
    assert from_hub(str(tmp_path)) == str(tmp_path)


def test_dual_encoders_say_where_their_weights_lie(tmp_path):
    assert OpenCLIP("hf-hub:owner/name").weights == ("hf-hub:owner/name",)
    (where,) = OpenCLIP("ViT-L-14/openai").weights
    assert where.startswith("hf-hub:timm/vit_large_patch14_clip_224.openai")
    (tmp_path / "w.safetensors").write_bytes(b"")
    assert OpenCLIP("ViT-L-14", str(tmp_path / "w.safetensors")).weights == (
        str(tmp_path / "w.safetensors"),
    )

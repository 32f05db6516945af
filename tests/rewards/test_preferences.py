"""PickScore, HPSv2, ImageReward and aesthetics against the networks that their authors run.

Models are tiny and random, saved and loaded as the real ones are; names of tensors are those of
the authors' code.
"""

import json

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
)

from fkdiff.rewards import AestheticPredictor, HPSv2, ImageReward, PickScore, hps
from fkdiff.rewards.dual_encoder import load_encoder
from fkdiff.terms.reward import RewardError, evaluate
from tests.rewards.images import photos

PROMPTS = ["a cat", "a pizza on a red background", "two cats"]
WORDS = {"prompts": PROMPTS}
OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
HEAD = [1024, 128, 64, 16, 1]


def pil(images):
    return [to_pil_image(image) for image in images]


def clear(tensors):
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def head_of(width):
    """The head as its authors write it: linear layers 0, 2, 4, 6, 7 with dropout between."""
    layers, last = [], width
    for size in HEAD:
        layers.append(nn.Linear(last, size))
        layers += [nn.Dropout()] if len(layers) < 6 else []
        last = size
    return nn.Sequential(*layers).eval()


def test_the_head_has_the_published_names_and_shapes():
    shapes = {name: tuple(t.shape) for name, t in head_of(768).state_dict().items()}
    weights = {n: s for n, s in shapes.items() if n.endswith("weight")}
    assert weights == {
        "0.weight": (1024, 768),
        "2.weight": (128, 1024),
        "4.weight": (64, 128),
        "6.weight": (16, 64),
        "7.weight": (1, 16),
    }


# PickScore -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pick_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pick")
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    end = {"eos_token_id": 53, "bos_token_id": 52, "pad_token_id": 53}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, **end, "vocab_size": 54, "max_position_embeddings": 77},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("height", "width"), [(32, 32), (70, 91)])
def test_pickscore_equals_the_authors_computation(pick_folder, height, width):
    model = CLIPModel.from_pretrained(pick_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(pick_folder)(
        PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    images = photos(height, width)
    seen = CLIPImageProcessor.from_pretrained(pick_folder)(images=pil(images), return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **seen).logits_per_image
    reward = PickScore(str(pick_folder), str(pick_folder), batch_size=2)
    values = evaluate(reward, images, WORDS)
    tolerance = 1e-5 if height == 32 else 0.02  # the processor rounds what it resizes to 8 bits
    assert torch.allclose(values, logits.diagonal().double(), atol=tolerance)
    assert not torch.allclose(values, logits[:, 0].double(), atol=tolerance)


def test_pickscore_gives_gradients_and_encodes_prompts_once(pick_folder):
    reward = PickScore(str(pick_folder), str(pick_folder))
    images = photos(40, 40).requires_grad_()
    reward(images, prompts=PROMPTS).sum().backward()
    assert images.grad.abs().sum() > 0
    network = reward._loaded
    network.tokenizer = None  # would fail if a prompt were encoded again
    assert reward(photos(40, 40), prompts=PROMPTS).shape == (3,)


# HPSv2 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hps_file(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hps")
    (folder / "tiny-preference.json").write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(folder / "tiny-preference.json")
    weights = open_clip.create_model("tiny-preference").state_dict()
    save_file(clear(weights), folder / "hps.safetensors")
    return folder / "hps.safetensors"


def test_hpsv2_pads_as_its_authors_do(hps_file, monkeypatch):
    monkeypatch.setattr(hps, "_ARCHITECTURE", "tiny-preference")
    images = photos(70, 40)
    values = evaluate(HPSv2(str(hps_file)), images, WORDS)
    model = open_clip.create_model("tiny-preference", pretrained=str(hps_file)).eval()
    text = model.encode_text(open_clip.get_tokenizer("tiny-preference")(PROMPTS), normalize=True)
    expected = {}
    for mode in ("longest", "shortest"):
        cfg = PreprocessCfg(size=32, resize_mode=mode)
        seen = torch.stack([image_transform_v2(cfg, is_train=False)(p) for p in pil(images)])
        expected[mode] = (model.encode_image(seen, normalize=True) * text).sum(1).double()
    assert torch.allclose(values, expected["longest"], atol=5e-3)
    assert not torch.allclose(values, expected["shortest"], atol=5e-3)


def test_hpsv2_fills_open_clips_architecture():
    with torch.device("meta"):
        model = open_clip.model.CLIP(
            **{k: v for k, v in open_clip.get_model_config("ViT-H-14").items()}
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    recorded = {
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.proj": (1280, 1024),
        "visual.transformer.resblocks.31.mlp.c_fc.weight": (5120, 1280),
        "transformer.resblocks.23.attn.in_proj_weight": (3072, 1024),
        "token_embedding.weight": (49408, 1024),
        "text_projection": (1024, 1024),
        "logit_scale": (),
    }
    assert {name: shapes.get(name) for name in recorded} == recorded


# ImageReward -----------------------------------------------------------------------------------


def image_reward_tensors(vision=128, text=64, layers=2, words=40, patches=4):
    """Random weights under the names of ImageReward.pt, with two heads of 64 for the image."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}

    def put(name, *shape, scale=0.3):
        tensors[name] = scale * torch.randn(*shape, generator=generator)

    def linear(name, out, size):
        put(f"{name}.weight", out, size)
        put(f"{name}.bias", out)

    def norm(name, size):
        put(f"{name}.weight", size)
        tensors[f"{name}.weight"] += 1
        put(f"{name}.bias", size)

    v, t = "blip.visual_encoder", "blip.text_encoder"
    put(f"{v}.cls_token", 1, 1, vision)
    put(f"{v}.pos_embed", 1, patches + 1, vision)
    put(f"{v}.patch_embed.proj.weight", vision, 3, 16, 16, scale=0.05)
    put(f"{v}.patch_embed.proj.bias", vision)
    for i in range(layers):
        norm(f"{v}.blocks.{i}.norm1", vision)
        norm(f"{v}.blocks.{i}.norm2", vision)
        linear(f"{v}.blocks.{i}.attn.qkv", 3 * vision, vision)
        linear(f"{v}.blocks.{i}.attn.proj", vision, vision)
        linear(f"{v}.blocks.{i}.mlp.fc1", 2 * vision, vision)
        linear(f"{v}.blocks.{i}.mlp.fc2", vision, 2 * vision)
    norm(f"{v}.norm", vision)
    put(f"{t}.embeddings.word_embeddings.weight", words, text)
    put(f"{t}.embeddings.position_embeddings.weight", 48, text)
    tensors[f"{t}.embeddings.position_ids"] = torch.arange(48)[None].float()
    norm(f"{t}.embeddings.LayerNorm", text)
    for i in range(layers):
        layer = f"{t}.encoder.layer.{i}"
        for kind, width in (("attention", text), ("crossattention", vision)):
            linear(f"{layer}.{kind}.self.query", text, text)
            linear(f"{layer}.{kind}.self.key", text, width)
            linear(f"{layer}.{kind}.self.value", text, width)
            linear(f"{layer}.{kind}.output.dense", text, text)
            norm(f"{layer}.{kind}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", 2 * text, text)
        linear(f"{layer}.output.dense", text, 2 * text)
        norm(f"{layer}.output.LayerNorm", text)
    put("blip.vision_proj.weight", 8, vision)  # in the file, of no use to the reward
    head = head_of(text)
    tensors |= {f"mlp.layers.{name}": w for name, w in clear(head.state_dict()).items()}
    return tensors


def image_reward_by_hand(w, pixels, ids, mask):
    """BLIP's image-grounded text encoder and the head, written out from the paper."""

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x, eps):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def attend(q, k, v, keep=None):
        q, k, v = (x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.mT / 8
        logits = logits if keep is None else logits.masked_fill(~keep[:, None, None], -1e9)
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)

    v, t = "blip.visual_encoder", "blip.text_encoder"
    proj = f"{v}.patch_embed.proj"
    x = F.conv2d(pixels, w[f"{proj}.weight"], w[f"{proj}.bias"], stride=16).flatten(2).mT
    x = torch.cat([w[f"{v}.cls_token"].expand(len(x), -1, -1), x], 1) + w[f"{v}.pos_embed"]
    for i in range(2):
        b = f"{v}.blocks.{i}"
        qkv = linear(f"{b}.attn.qkv", norm(f"{b}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{b}.attn.proj", attend(*qkv))
        x = x + linear(f"{b}.mlp.fc2", F.gelu(linear(f"{b}.mlp.fc1", norm(f"{b}.norm2", x, 1e-6))))
    x = norm(f"{v}.norm", x, 1e-6)
    e = f"{t}.embeddings"
    y = w[f"{e}.word_embeddings.weight"][ids]
    y = norm(f"{e}.LayerNorm", y + w[f"{e}.position_embeddings.weight"][: ids.shape[1]], 1e-12)
    for i in range(2):
        layer = f"{t}.encoder.layer.{i}"
        for kind, seen, keep in (("attention", None, mask.bool()), ("crossattention", x, None)):
            a = f"{layer}.{kind}"
            source = y if seen is None else seen
            values = [linear(f"{a}.self.query", y)]
            values += [linear(f"{a}.self.{name}", source) for name in ("key", "value")]
            y = norm(
                f"{a}.output.LayerNorm",
                linear(f"{a}.output.dense", attend(*values, keep)) + y,
                1e-12,
            )
        inner = F.gelu(linear(f"{layer}.intermediate.dense", y))
        y = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", inner) + y, 1e-12)
    y = y[:, 0]
    for number in (0, 2, 4, 6, 7):
        y = linear(f"mlp.layers.{number}", y)
    return (y[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def image_reward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image-reward")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a cat pizza on red two cats".split()]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    tensors = image_reward_tensors()
    save_file(tensors, folder / "image_reward.safetensors")
    return ImageReward(str(folder / "image_reward.safetensors"), str(folder)), tensors


def test_image_reward_equals_the_network_written_out(image_reward):
    reward, tensors = image_reward
    images = photos(32, 32)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    ids = torch.zeros(3, 35, dtype=torch.long)  # [CLS] words [SEP], padded to 35
    for row, known in zip(ids, ["2 5 6 3", "2 5 7 8 5 9 1 3", "2 10 11 3"], strict=True):
        numbers = torch.tensor([int(n) for n in known.split()])
        row[: len(numbers)] = numbers
    expected = image_reward_by_hand(tensors, (images - mean) / std, ids, ids != 0)
    values = evaluate(reward, images, WORDS)
    assert torch.allclose(values, expected.double(), atol=1e-4)
    blind = image_reward_by_hand(tensors, (images.flip(0) - mean) / std, ids, ids != 0)
    assert not torch.allclose(values, blind.double(), atol=1e-2)
    assert (reward.mean, reward.sd) == (0.0, 1.0)


def test_image_reward_gives_gradients_and_refuses_other_files(image_reward, tmp_path):
    reward, tensors = image_reward
    images = photos(48, 40).requires_grad_()
    reward(images, prompts=PROMPTS).sum().backward()
    assert images.grad.abs().sum() > 0
    lacking = {n: t for n, t in tensors.items() if n != "blip.visual_encoder.cls_token"}
    for name, kept, message in [
        ("lacking", lacking, "lacks embeddings.class_embedding"),
        ("other", {"a": torch.zeros(1)}, r"nothing in it is named blip.visual_encoder.\*"),
    ]:
        save_file(kept, tmp_path / f"{name}.safetensors")
        broken = ImageReward(str(tmp_path / f"{name}.safetensors"), reward.tokenizer)
        with pytest.raises(RewardError, match=message):
            broken.prepare()


# Aesthetics ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aesthetic_files(tmp_path_factory):
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("aesthetic")
    weights = open_clip.model.CLIP(**OPEN_CLIP).state_dict()
    save_file(clear(weights), folder / "model.safetensors")
    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    head = head_of(8)
    state = {f"layers.{name}": w for name, w in clear(head.state_dict()).items()}
    file = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file(state, file)
    return folder, head, file


def test_aesthetics_are_the_head_on_unit_features(aesthetic_files):
    folder, head, file = aesthetic_files
    images = photos(32, 32)
    reward = AestheticPredictor(str(file), str(folder))
    values = evaluate(reward, images, WORDS)
    encoder = load_encoder(f"local-dir:{folder}")
    with torch.no_grad():
        features = encoder.images(images)
        expected = head(features)[:, 0]
    assert torch.allclose(values, expected.double(), atol=1e-6)
    assert torch.allclose(features.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        assert not torch.allclose(values, head(3 * features)[:, 0].double(), atol=1e-4)
    assert torch.equal(reward(images), values.float())  # prompts don't matter


def test_a_head_of_another_encoder_is_refused(aesthetic_files, tmp_path):
    folder = aesthetic_files[0]
    save_file({"layers.0.weight": torch.ones(1, 768)}, tmp_path / "head.safetensors")
    with pytest.raises(RewardError, match=r"a head for 8 features .* got shapes \[\(1, 768\)\]"):
        AestheticPredictor(str(tmp_path / "head.safetensors"), str(folder)).prepare()


# All -------------------------------------------------------------------------------------------


def test_defaults_name_the_published_weights_and_fail_in_one_line_offline():
    for reward, first in [
        (PickScore(), "hf-hub:yuvalkirstain/PickScore_v1"),
        (HPSv2(), "hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt"),
        (ImageReward(), "hf-hub:THUDM/ImageReward/ImageReward.pt"),
    ]:
        assert reward.weights[0] == first
        with pytest.raises(RewardError, match="can't be loaded .*check the network") as caught:
            reward.prepare()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [AestheticPredictor, HPSv2, ImageReward])
def test_pickles_are_refused_with_the_remedy(make):
    with pytest.raises(RewardError, match="must be a safetensors file, got 'w.pth'; convert it"):
        make("w.pth")

"""ImageReward: a text encoder that looks at the image, tuned on rankings by people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fkdiff.rewards.aesthetic import affine_head
from fkdiff.rewards.model_reward import ModelReward
from fkdiff.rewards.preprocess import ImageSettings, preprocess
from fkdiff.rewards.weights import from_hub, loading, pretrained, read_tensors, refuse_pickle
from fkdiff.terms.reward_function import RewardError

__all__ = ["ImageReward", "blip_state"]

_PUBLISHED = "hf-hub:THUDM/ImageReward/ImageReward.pt"
_MEAN, _SD = 0.16717362830052426, 1.0333394966054072  # of the head's raw output, by the authors
_HEAD_DIM = 64  # of every attention head in BLIP's encoders of image and text
_TOKENS = 35

# From the names of BLIP's own code to those of transformers; the text encoder's are the same.
_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "blocks.": "encoder.layers.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
}


@dataclass(frozen=True, eq=False, repr=False)
class ImageReward(ModelReward):
    r"""How much people would prefer an image for its prompt, by cross-attention.

    $$ r(x, y) = (h(g(y \mid f(x))_0) - 0.167) / 1.033 $$

    with BLIP's image encoder $f$, its text encoder $g$ that attends to the image, the first
    token's features and a head $h$ of layers 768-1024-128-64-16-1. The constants are the authors':
    they bring the values to mean 0 and sd 1 on their data, which are thus the stated ones. Values
    are unbounded. The other settings are those of `ModelReward`.

    Arguments:
        checkpoint: A safetensors file, "hf-hub:owner/name/file.safetensors", or the authors' file
            (default), which torch reads as tensors alone.
        tokenizer: Hub id or folder of BERT's tokenizer.

    Raises:
        RewardError: If the checkpoint is a pickle other than the authors', or no ImageReward.

    References:
        | ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation
        | (Xu et al., 2023) | https://arxiv.org/abs/2304.05977

    Example:
        >>> ImageReward(batch_size=4)
        ImageReward(batch_size=4)
    """

    checkpoint: str = _PUBLISHED
    tokenizer: str = "bert-base-uncased"

    name = "image-reward"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_pickle(self.checkpoint, _PUBLISHED)

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Checkpoint and tokenizer."""
        return (self.checkpoint, from_hub(self.tokenizer))

    def load(self) -> nn.Module:
        """Encoders whose sizes are read off the checkpoint's tensors."""
        from transformers import AutoTokenizer

        tokenizer = pretrained(AutoTokenizer, self.tokenizer)
        tensors = read_tensors(self.checkpoint, _PUBLISHED)
        with loading(self.checkpoint):
            return _Ranker(tensors, tokenizer)


class _Ranker(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], tokenizer: Any) -> None:
        super().__init__()
        self.vision = _vision(_part(tensors, "blip.visual_encoder."))
        self.text = _text(_part(tensors, "blip.text_encoder."))
        self.head = affine_head(_part(tensors, "mlp."), self.text.config.hidden_size)
        self.tokenizer = tokenizer
        self.settings = ImageSettings(size=self.vision.config.image_size)

    def forward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = self.vision(pixel_values=preprocess(pixels, self.settings)).last_hidden_state
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=_TOKENS,
            return_tensors="pt",
        ).to(pixels.device)
        read = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state
        return (self.head(read[:, 0]) - _MEAN) / _SD


def blip_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of BLIP's image encoder under the names of transformers' `BlipVisionModel`.

    Example:
        >>> import torch
        >>> list(blip_state({"blocks.0.attn.qkv.bias": torch.zeros(3)}))
        ['encoder.layers.0.self_attn.qkv.bias']
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("norm."):
            name = f"post_layer{name}"
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    return renamed


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    part = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not part:
        raise RewardError(f"the checkpoint is no ImageReward: nothing in it is named {prefix}*")
    return part


def _vision(tensors: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    state = blip_state(tensors)
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    patches = state["embeddings.position_embedding"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=_layers(state, "encoder.layers."),
        num_attention_heads=width // _HEAD_DIM,
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # transformers' default is another
    )
    return _filled(BlipVisionModel(config), state)


def _text(state: Mapping[str, Tensor]) -> Any:
    from transformers import BlipTextConfig, BlipTextModel

    words, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(state["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_layers(state, "encoder.layer."),
        num_attention_heads=width // _HEAD_DIM,
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
    )
    return _filled(BlipTextModel(config, add_pooling_layer=False), state)


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)})


def _filled(model: Any, state: Mapping[str, Tensor]) -> Any:
    """The model with these weights: none may lack, but older files keep indices beside them."""
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise RewardError(f"the checkpoint is no ImageReward: it lacks {', '.join(missing[:3])}")
    return model.eval()

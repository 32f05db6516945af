"""PickScore: a dual encoder tuned on which of two images people picked for their own prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fkdiff.rewards.dual_encoder import DualEncoder
from fkdiff.rewards.model_reward import ModelReward
from fkdiff.rewards.preprocess import settings_of
from fkdiff.rewards.weights import from_hub, pretrained

__all__ = ["PickScore"]


@dataclass(frozen=True, eq=False, repr=False)
class PickScore(ModelReward):
    r"""How much people would prefer an image for its prompt, on the scale of CLIP's logits.

    $$ r(x, y) = e^{s} \frac{\langle f(x), g(y) \rangle}{|f(x)| \, |g(y)|} \in [-e^s, e^s] $$

    with the learned temperature $s$ ($e^s$ is at most 100), so that a difference of two values is
    the log-odds of the preference. No mean and sd are published, so they are 0 and 1 unless
    stated. The other settings are those of `ModelReward`.

    Arguments:
        model: Hub id or folder of a `CLIPModel`.
        processor: Hub id or folder of its image processor and tokenizer.

    References:
        | Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation
        | (Kirstain et al., 2023) | https://arxiv.org/abs/2305.01569

    Example:
        >>> PickScore(sd=0.8)
        PickScore(sd=0.8)
    """

    model: str = "yuvalkirstain/PickScore_v1"
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    name = "pickscore"

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Model and processor."""
        return (from_hub(self.model), from_hub(self.processor))

    def load(self) -> nn.Module:
        """Model and processor by transformers' own loaders."""
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        processor = pretrained(AutoImageProcessor, self.processor)
        tokenizer = pretrained(AutoTokenizer, self.processor)
        model = pretrained(CLIPModel, self.model, dtype=torch.float32)
        return _Preference(model, tokenizer, settings_of(processor))


class _Preference(DualEncoder):
    """CLIP of transformers, whose similarity is scaled to log-odds."""

    def forward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.model.logit_scale.exp() * super().forward(pixels, prompts)  # pyright: ignore

    def encoded_images(self, pixels: Tensor) -> Tensor:
        seen = self.model.vision_model(pixel_values=pixels).pooler_output  # pyright: ignore
        return self.model.visual_projection(seen)  # pyright: ignore

    def encoded_text(self, text: str) -> Tensor:
        tokens = self.tokenizer([text], truncation=True, max_length=77, return_tensors="pt")
        tokens = tokens.to(self.device)
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return self.model.text_projection(self.model.text_model(**kept).pooler_output)  # pyright: ignore

"""PickScore: a dual encoder tuned on which of two images people picked for their own prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.model_reward import ModelReward
from fkdiff.rewards.preprocess import ImageSettings, preprocess, settings_of
from fkdiff.rewards.weights import from_hub, loading

__all__ = ["PickScore"]


@dataclass(frozen=True, eq=False, repr=False)
class PickScore(ModelReward):
    r"""How much people would prefer an image for its prompt, on the scale of CLIP's logits.

    $$ r(x, y) = e^{s} \frac{\langle f(x), g(y) \rangle}{|f(x)| \, |g(y)|} \in [-e^s, e^s] $$

    with the learned temperature $s$ ($e^s$ is at most 100), so that a difference of two values is
    the log-odds of the preference. No mean and sd are published, so they are 0 and 1 unless
    stated.

    Arguments:
        model: Hub id or folder of a `CLIPModel`.
        processor: Hub id or folder of its image processor and tokenizer.
        device: Where to run, None for the device of the first images.
        mean: Stated mean of the score.
        sd: Stated standard deviation of the score, positive.
        batch_size: Largest number of images scored at once.

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

        with loading(self.processor):
            settings = settings_of(AutoImageProcessor.from_pretrained(self.processor))
            tokenizer = AutoTokenizer.from_pretrained(self.processor)
        with loading(self.model):
            model = CLIPModel.from_pretrained(self.model, dtype=torch.float32)
        return _Preference(model, tokenizer, settings)


class _Preference(nn.Module):
    def __init__(self, model: Any, tokenizer: Any, settings: ImageSettings) -> None:
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self._texts: dict[str, Tensor] = {}

    def forward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        images = self.model.vision_model(pixel_values=preprocess(pixels, self.settings))
        images = nn.functional.normalize(self.model.visual_projection(images.pooler_output), dim=1)
        for prompt in set(prompts) - set(self._texts):
            self._texts[prompt] = self._text(prompt).cpu()
        texts = torch.stack([self._texts[prompt] for prompt in prompts]).to(pixels.device)
        return self.model.logit_scale.exp() * (images * texts).sum(dim=1)

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        """Unit features of one prompt, shape (d,); alone, so that no company rounds it."""
        tokens = self.tokenizer([prompt], truncation=True, max_length=77, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        kept = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        features = self.model.text_projection(self.model.text_model(**kept).pooler_output)
        return nn.functional.normalize(features[0], dim=0)

"""VQAScore: ask a vision-language model whether the image shows its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.rewards.weights import from_hub, pretrained
from fkdiff.terms.reward_function import RewardError, pil_images

__all__ = ["VQAScore"]

_QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'


@dataclass(frozen=True, eq=False, repr=False)
class VQAScore(ModelReward):
    r"""Probability that a vision-language model answers "Yes" when asked about the prompt.

    $$ r(x, y) = p(\text{"Yes"} \mid x, \text{question}(y)) \in [0, 1] $$

    of the first answered token, over the whole vocabulary. Reads compositions better than dual
    encoders do, and costs more. Not differentiable: each model prepares images its own way, from
    Pillow images. The constants are 0 and 1 unless stated: they depend on the model. The other
    settings are those of `ModelReward`.

    Arguments:
        model: Hub id or folder of any image-text-to-text model of transformers.
        question: What is asked; "{prompt}" stands for the prompt.
        answer: The answer whose probability is taken: a single token.

    Raises:
        RewardError: If the question has no place for the prompt, or the answer is several tokens.

    References:
        | Evaluating Text-to-Visual Generation with Image-to-Text Generation
        | (Lin et al., 2024) | https://arxiv.org/abs/2404.01291

    Example:
        >>> VQAScore("llava-hf/llava-1.5-7b-hf").name
        'vqa:llava-1.5-7b-hf'
    """

    model: str
    question: str = _QUESTION
    answer: str = "Yes"

    differentiable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{prompt}" not in self.question:
            raise RewardError(f"question must contain {{prompt}}, got {self.question!r}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name in reports: that of the model."""
        return f"vqa:{self.model.rstrip('/').rpartition('/')[2]}"

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return (from_hub(self.model),)

    def load(self) -> nn.Module:
        """Model and processor by transformers' own loaders, in the precision they were saved."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        processor = pretrained(AutoProcessor, self.model)
        model = pretrained(AutoModelForImageTextToText, self.model)
        tokens = processor.tokenizer.encode(self.answer, add_special_tokens=False)
        if len(tokens) != 1:
            raise RewardError(
                f"answer must be a single token of {self.model}, but {self.answer!r} is "
                f"{len(tokens)}; take another word"
            )
        if not model.config.is_encoder_decoder:
            processor.tokenizer.padding_side = "left"  # the answer follows the last column
        return Network(partial(self._answered, processor, tokens[0]), model)

    def _answered(
        self, processor: Any, token: int, model: Any, pixels: Tensor, prompts: Sequence[str]
    ) -> Tensor:
        """Probability that `token` comes first after each question."""
        questions = [self.question.replace("{prompt}", prompt) for prompt in prompts]
        if getattr(processor, "chat_template", None):
            questions = [
                processor.apply_chat_template(_turn(question), add_generation_prompt=True)
                for question in questions
            ]
        images = [[image] for image in pil_images(pixels)]  # one list of images for each text
        inputs = processor(images=images, text=questions, padding=True, return_tensors="pt")
        inputs = inputs.to(model.device, dtype=model.dtype)  # floating tensors only
        answered = model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        return answered.logits[0].double().softmax(dim=-1)[:, token]


def _turn(question: str) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]

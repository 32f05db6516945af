"""Text classifiers and sentence encoders of transformers as rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.classifier import label_number
from fkdiff.rewards.text_model import TextModelReward
from fkdiff.rewards.weights import from_hub, loading
from fkdiff.terms.reward_function import RewardError

__all__ = ["Similarity", "TextClassifier"]


@dataclass(frozen=True, eq=False, repr=False)
class TextClassifier(TextModelReward):
    r"""Log-probability that a text is what a label says, $\log p(\text{label} \mid x) \le 0$.

    With `Tilt(..., scale=1)` the target is the law of the texts that carry the label. Natural
    constants: mean 0 and sd 1, unless stated.

    Arguments:
        model: Hub id or folder of a sequence classifier of transformers.
        label: Name of a label (case and underscores don't matter), or its number; None to read it
            off the end of `model`, written "MODEL:LABEL".
        device: Where to run, None for the CPU.
        mean: Stated mean.
        sd: Stated standard deviation, positive.
        batch_size: Largest number of texts scored at once.

    Raises:
        RewardError: If model or label is unknown; known when weights are loaded.

    Example:
        >>> TextClassifier("s-nlp/roberta_toxicity_classifier", "toxic").name
        'toxic'
    """

    model: str
    label: str | int | None = None

    argument = "MODEL:LABEL"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is None:
            model, _, label = self.model.rpartition(":")
            if not model:
                raise RewardError(
                    f"a classifier needs a label: TextClassifier({self.model!r}, label)"
                )
            object.__setattr__(self, "model", model)
            object.__setattr__(self, "label", int(label) if label.isdecimal() else label)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name in reports: the label."""
        return str(self.label)

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return (from_hub(self.model),)

    def load(self) -> nn.Module:
        """The classifier with its tokenizer, and the label's number."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with loading(self.model):
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModelForSequenceClassification.from_pretrained(
                self.model, dtype=torch.float32
            )
        number = label_number(self.label, model.config.id2label, self.model)
        return _LogProbability(model, tokenizer, number)


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(TextModelReward):
    r"""Cosine of a text's embedding with that of a reference, in [-1, 1].

    Embeddings are the mean of an encoder's last states over the text's tokens, as in the
    sentence encoders of transformers. Natural constants: mean 0 and sd 1, unless stated.

    Arguments:
        model: Hub id or folder of an encoder of transformers.
        reference: Text to be near to; None compares with each row's prompt.
        device: Where to run, None for the CPU.
        mean: Stated mean.
        sd: Stated standard deviation, positive.
        batch_size: Largest number of texts scored at once.

    References:
        | Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks
        | (Reimers & Gurevych, 2019), arXiv 1908.10084

    Example:
        >>> Similarity("sentence-transformers/all-MiniLM-L6-v2", "a red apple").reads_prompts
        False
    """

    model: str
    reference: str | None = None

    name = "similarity"
    argument = "MODEL"

    @property
    def reads_prompts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is no reference."""
        return self.reference is None

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return (from_hub(self.model),)

    def load(self) -> nn.Module:
        """The encoder with its tokenizer."""
        from transformers import AutoModel, AutoTokenizer

        with loading(self.model):
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModel.from_pretrained(self.model, dtype=torch.float32)
        return _Cosine(model, tokenizer, self.reference)


class _LogProbability(nn.Module):
    def __init__(self, model: nn.Module, tokenizer: Any, number: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.number = model, tokenizer, number

    def forward(self, texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
        device = next(self.model.parameters()).device
        given = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        logits = self.model(**given.to(device)).logits
        return logits.float().log_softmax(-1)[:, self.number].cpu()


class _Cosine(nn.Module):
    def __init__(self, model: nn.Module, tokenizer: Any, reference: str | None) -> None:
        super().__init__()
        self.model, self.tokenizer, self.reference = model, tokenizer, reference

    def forward(self, texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
        asked = list(prompts) if self.reference is None else [self.reference]
        return torch.cosine_similarity(self._embedded(texts), self._embedded(asked)).cpu()

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        device = next(self.model.parameters()).device
        given = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        states = self.model(**given.to(device)).last_hidden_state.float()
        seen = given["attention_mask"].to(states)[..., None]
        return (states * seen).sum(1) / seen.sum(1).clamp(min=1)

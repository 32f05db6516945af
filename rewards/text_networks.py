"""Text classifiers and sentence encoders of transformers as rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.classifier import Labelled, label_number
from fkdiff.rewards.model_reward import Network, TextModelReward
from fkdiff.rewards.weights import pretrained

__all__ = ["Similarity", "TextClassifier"]


@dataclass(frozen=True, eq=False, repr=False)
class TextClassifier(Labelled, TextModelReward):  # pyright: ignore[reportIncompatibleVariableOverride]
    r"""Log-probability that a text is what a label says, $\log p(\text{label} \mid x) \le 0$.

    With `Tilt(..., scale=1)` the target is the law of the texts that carry the label. Natural
    constants: mean 0 and sd 1, unless stated. The other settings are those of `ModelReward`.

    Arguments:
        model: Hub id or folder of a sequence classifier of transformers.
        label: Name of a label (case and underscores don't matter), or its number; None to read it
            off the end of `model`, written "MODEL:LABEL".

    Raises:
        RewardError: If model or label is unknown; known when weights are loaded.

    Example:
        >>> TextClassifier("s-nlp/roberta_toxicity_classifier", "toxic").name
        'toxic'
    """

    label: str | int | None = None

    def load(self) -> nn.Module:
        """The classifier with its tokenizer, and the label's number."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = pretrained(AutoTokenizer, self.model)
        model = pretrained(AutoModelForSequenceClassification, self.model, dtype=torch.float32)
        number = label_number(self.label, model.config.id2label, self.model)

        def values(model: nn.Module, texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
            logits = model(**_tokens(tokenizer, texts, model)).logits
            return logits.float().log_softmax(-1)[:, number].cpu()

        return Network(values, model)


@dataclass(frozen=True, eq=False, repr=False)
class Similarity(TextModelReward):
    r"""Cosine of a text's embedding with that of a reference, in [-1, 1].

    Embeddings are the mean of an encoder's last states over the text's tokens, as in the sentence
    encoders of transformers. Natural constants: mean 0 and sd 1, unless stated. The other settings
    are those of `ModelReward`.

    Arguments:
        model: Hub id or folder of an encoder of transformers.
        reference: Text to be near to; None compares with each row's prompt.

    References:
        | Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks
        | (Reimers & Gurevych, 2019), arXiv 1908.10084

    Example:
        >>> Similarity("sentence-transformers/all-MiniLM-L6-v2", "a red apple").reads_prompts
        False
    """

    reference: str | None = None

    name = "similarity"
    argument = "MODEL"

    @property
    def reads_prompts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is no reference."""
        return self.reference is None

    def load(self) -> nn.Module:
        """The encoder with its tokenizer."""
        from transformers import AutoModel, AutoTokenizer

        tokenizer = pretrained(AutoTokenizer, self.model)
        model = pretrained(AutoModel, self.model, dtype=torch.float32)

        def embedded(model: nn.Module, texts: Sequence[str]) -> Tensor:
            given = _tokens(tokenizer, texts, model)
            states = model(**given).last_hidden_state.float()
            seen = given["attention_mask"].to(states)[..., None]
            return (states * seen).sum(1) / seen.sum(1).clamp(min=1)

        def values(model: nn.Module, texts: Sequence[str], prompts: Sequence[str]) -> Tensor:
            others = prompts if self.reference is None else [self.reference]
            return torch.cosine_similarity(embedded(model, texts), embedded(model, others)).cpu()

        return Network(values, model)


def _tokens(tokenizer: Any, texts: Sequence[str], model: nn.Module) -> Any:
    """Padded tokens of texts, where the model is."""
    given = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return given.to(next(model.parameters()).device)

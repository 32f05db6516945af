"""(Pseudo-)log-likelihood and perplexity of a text under a language model of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.model_reward import Network, TextModelReward
from fkdiff.rewards.weights import pretrained

__all__ = ["LogLikelihood", "Perplexity"]


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood(TextModelReward):
    r"""Mean log-likelihood of a token, in nats; for masked models the pseudo-log-likelihood.

    $$ r(x) = \frac1L \sum_i \log p(x_i \mid x_{<i}), \qquad
    r(x) = \frac1L \sum_i \log p(x_i \mid x_{-i}) $$

    The first for causal models (from the second token on where there is no start token), the
    second for masked ones, one pass for each token. Special tokens don't count; a text of no
    tokens has -inf. Natural constants: mean 0 and sd 1, unless stated. The other settings are
    those of `ModelReward`.

    Arguments:
        model: Hub id or folder of a language model; its configuration says which kind it is.
        passes: For masked models: mask every `passes`-th token at once, which is cheaper and
            sees less context; None masks one at a time.

    References:
        | Masked Language Model Scoring (Salazar et al., 2020), arXiv 1910.14659

    Example:
        >>> LogLikelihood("gpt2").inputs
        'text'
    """

    passes: int | None = None

    name = "log-likelihood"
    argument = "MODEL"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes is not None and self.passes < 1:
            raise ValueError(f"passes must be at least 1, got {self.passes}")

    def load(self) -> nn.Module:
        """The model with its tokenizer."""
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

        tokenizer = pretrained(AutoTokenizer, self.model)
        masked = tokenizer.mask_token_id is not None
        kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        model = pretrained(kind, self.model, dtype=torch.float32)
        if masked:
            return Pseudo(model, tokenizer, self.passes, self.batch_size)
        return Network(partial(_causal, tokenizer), model)


@dataclass(frozen=True, eq=False, repr=False)
class Perplexity(LogLikelihood):
    """Minus the perplexity, exp of minus the log-likelihood: higher is better, -1 is the best.

    Arguments and errors are those of `LogLikelihood`.

    Example:
        >>> Perplexity("gpt2").name
        'perplexity'
    """

    name = "perplexity"
    pure = True

    def __call__(
        self, samples: Sequence[str], prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Minus the perplexity of each text, shape (n,)."""
        return -(-super().__call__(samples, prompts)).exp()


class Pseudo(nn.Module):
    """Pseudo-log-likelihood of texts under a masked language model."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, passes: int | None, batch_size: int
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.passes, self.batch_size = passes, batch_size

    def forward(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        return torch.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Tensor:
        device = next(self.model.parameters()).device
        ids = self.tokenizer(_spaced(text, self.tokenizer), return_tensors="pt").input_ids[0]
        special = torch.tensor(self.tokenizer.all_special_ids)
        places = (~torch.isin(ids, special)).nonzero().flatten()
        if not len(places):
            return torch.tensor(-torch.inf)
        count = min(self.passes or len(places), len(places))
        hidden = torch.zeros(count, len(ids), dtype=torch.bool)
        hidden[torch.arange(len(places)) % count, places] = True
        rows = torch.where(hidden, self.tokenizer.mask_token_id, ids)
        logits = [
            self.model(input_ids=part.to(device)).logits for part in rows.split(self.batch_size)
        ]
        log_p = torch.cat(logits).float().log_softmax(-1).cpu()
        found = log_p.gather(-1, ids.expand(count, -1)[..., None])[..., 0]
        return found[hidden].mean()


def _causal(
    tokenizer: Any, model: nn.Module, texts: Sequence[str], prompts: Sequence[str]
) -> Tensor:
    """Mean log-likelihood of a token of each text under a causal model."""
    start, device = tokenizer.bos_token_id, next(model.parameters()).device
    values = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        ids = torch.tensor([[*([start] if start is not None else []), *ids]], dtype=torch.int64)
        if ids.shape[1] < 2:
            values.append(torch.tensor(-torch.inf))
            continue
        log_p = model(input_ids=ids.to(device)).logits[:, :-1].float().log_softmax(-1).cpu()
        values.append(log_p.gather(-1, ids[:, 1:, None]).mean())
    return torch.stack(values)


def _spaced(text: str, tokenizer: Any) -> str:
    """The text with its letters apart, where the tokenizer knows single letters alone."""
    special = set(tokenizer.all_special_tokens)
    words = (word for word in tokenizer.get_vocab() if word not in special)
    return " ".join("".join(text.split())) if all(len(w) == 1 for w in words) else text

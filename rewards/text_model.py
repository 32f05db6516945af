"""What rewards computed by a network on texts share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.rewards.model_reward import ModelReward, check_prompts
from fkdiff.terms.reward_function import RewardError

__all__ = ["TextModelReward", "spaced"]


class TextModelReward(ModelReward):
    """Base of rewards on texts: subclasses say how to load a module of (texts, prompts).

    Texts are taken one batch after the other; nothing is differentiable.
    """

    inputs = "text"
    differentiable = False
    pure = True
    reads_prompts = False

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, samples: Sequence[str], prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Values of n texts, and of the n prompts if these matter, shape (n,)."""
        if isinstance(samples, str) or not all(isinstance(text, str) for text in samples):
            raise RewardError(f"reward {self.name!r} reads a list of texts, got {samples!r:.60}")
        n, size = len(samples), self.batch_size
        if self.reads_prompts:
            check_prompts(prompts, n, self.name)
        asked = list(prompts or []) if self.reads_prompts else [""] * n
        network = self._network(torch.device(self.device or "cpu"))
        with torch.no_grad():
            parts = [
                network(list(samples[i : i + size]), asked[i : i + size])
                for i in range(0, n, size)
            ]
        return torch.cat(parts) if parts else torch.zeros(0)


def spaced(text: str, tokenizer: Any) -> str:
    """The text with its letters apart, where the tokenizer knows single letters alone."""
    special = set(tokenizer.all_special_tokens)
    words = (word for word in tokenizer.get_vocab() if word not in special)
    return " ".join("".join(text.split())) if all(len(w) == 1 for w in words) else text

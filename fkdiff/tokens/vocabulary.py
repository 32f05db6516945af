"""Tokens of a masked language model: templates from prompts, texts from tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Vocabulary"]


@dataclass(frozen=True)
class Vocabulary:
    """What a sampler must know of a tokenizer.

    Arguments:
        mask: Number of the mask token.
        special: Numbers that are never drawn.
        pad: Number of the padding, None if there is none.
        tokenizer: The tokenizer, None for tokens alone.
        letters: Whether all tokens but the special ones are single characters, as in models of
            proteins; their texts are written without spaces.
    """

    mask: int
    special: tuple[int, ...]
    pad: int | None = None
    tokenizer: Any = None
    letters: bool = False

    @classmethod
    def of(cls, tokenizer: Any, mask: int | None = None) -> "Vocabulary":
        """From a tokenizer, or from the mask's number alone.

        Raises:
            ValueError: If there is no mask token.
        """
        if tokenizer is None:
            if mask is None:
                raise ValueError("mask_token_id must be given where there is no tokenizer")
            return cls(mask, (mask,))
        if tokenizer.mask_token_id is None:
            raise ValueError(
                f"tokenizer must have a mask token, {type(tokenizer).__name__} has none; take a "
                f"masked language model such as BERT or ESM, not a causal one"
            )
        special = tuple(sorted({*tokenizer.all_special_ids, tokenizer.mask_token_id}))
        words = [word for word, n in tokenizer.get_vocab().items() if n not in special]
        letters = all(len(word) == 1 for word in words)
        pad = tokenizer.pad_token_id
        return cls(tokenizer.mask_token_id, special, pad, tokenizer, letters)

    def template(self, prompts: Sequence[str], length: int | None) -> Tensor:
        """Tokens (P, L) of the prompts, -1 where they are to be drawn, padded on the right.

        Raises:
            ValueError: If there is nothing to draw, or a prompt can't be read.
        """
        if not prompts:
            raise ValueError("prompt must hold at least one text, got an empty list")
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        rows = [self._row(prompt, length or 0) for prompt in prompts]
        for row, prompt in zip(rows, prompts, strict=True):
            if not (row < 0).any():
                name = self.tokenizer.mask_token if self.tokenizer else "a mask"
                raise ValueError(
                    f"prompt must hold {name} where tokens are to be drawn, got {prompt!r}; "
                    f"or give length, the number of tokens to draw after it"
                )
        if self.pad is None and len({len(row) for row in rows}) > 1:
            raise ValueError("prompts must have the same length where there is no padding token")
        pad = 0 if self.pad is None else self.pad
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)

    def texts(self, tokens: Tensor) -> list[str]:
        """Texts of token rows (n, L), without special tokens."""
        if self.letters:
            names = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
            rows = tokens.tolist()
            return ["".join(names[k] for k in row if k not in self.special) for row in rows]
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def _row(self, prompt: str, length: int) -> Tensor:
        if self.tokenizer is None:
            if prompt:
                raise ValueError(f"prompt must be empty without a tokenizer, got {prompt!r}")
            return torch.full((length,), -1)
        mask = self.tokenizer.mask_token
        if self.letters:
            ids = self.tokenizer(" ".join(self._letters(prompt) + [mask] * length)).input_ids
        else:
            ids = self.tokenizer(prompt + mask * length).input_ids
        row = torch.tensor(ids, dtype=torch.int64)
        return torch.where(row == self.mask, -1, row)

    def _letters(self, prompt: str) -> list[str]:
        """Letters and mask tokens of a text, with or without spaces."""
        mask, known = self.tokenizer.mask_token, self.tokenizer.get_vocab()
        found: list[str] = []
        for i, part in enumerate("".join(prompt.split()).split(mask)):
            found += [mask] * (i > 0)
            for letter in part:
                if letter not in known:
                    raise ValueError(
                        f"prompt must hold letters of the model and {mask}, got {letter!r}"
                    )
                found.append(letter)
        return found

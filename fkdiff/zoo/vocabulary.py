"""Recipe of the tokenizer: a byte-pair encoding in which every known word is one token."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from fkdiff.zoo.words import known_words

__all__ = ["LENGTH", "build_tokenizer", "carried_over"]

LENGTH = 24
"""Tokens of a prompt, begin and end included."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def _merges(words: list[str]) -> tuple[dict[str, int], list[str]]:
    """The vocabulary and merge list learnt from words, each seen once."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    model = json.loads(bpe.to_str())["model"]
    pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    return model["vocab"], pairs


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the bundled models; the end token has the largest index."""
    words = sorted(known_words())
    vocab, merges = _merges([*words, ",", "."])
    letters = sorted({letter for word in words for letter in word} | {",", "."})
    tokens = sorted(set(vocab) | set(letters) | {letter + "</w>" for letter in letters})
    table = {token: index for index, token in enumerate(tokens)}
    for special in (_START, _END):
        table[special] = len(table)
    pairs: Any = [tuple(pair.split(" ")) for pair in merges]
    return CLIPTokenizer(vocab=table, merges=pairs, model_max_length=LENGTH)


def carried_over(rows: Tensor, old: Mapping[str, int], new: Mapping[str, int]) -> Tensor:
    """Embeddings for a larger vocabulary: each token's own, and the mean for a token that is new.

    Arguments:
        rows: (len(old), width).
        old: Token -> row.
        new: The same of the larger vocabulary.

    >>> carried_over(torch.tensor([[1.0], [3.0]]), {"a": 0, "b": 1}, {"b": 0, "c": 1}).tolist()
    [[3.0], [2.0]]
    """
    mean = rows.mean(0)
    tokens = sorted(new, key=lambda token: new[token])
    return torch.stack([rows[old[token]] if token in old else mean for token in tokens])

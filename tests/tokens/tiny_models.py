"""Tiny models of transformers with random weights, saved as a user would have them."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*SPECIAL, *"ACDE"]
WORDS = [*SPECIAL, "a", "red", "green", "cat", "dog"]


def config(vocabulary, **more):
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.5, **more,
    )  # fmt: skip


def tokenizer(folder: Path, vocabulary):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)


def saved(folder: Path, vocabulary=LETTERS, kind=BertForMaskedLM, **more) -> str:
    """A folder that AutoModel and AutoTokenizer load."""
    tokenizer(folder, vocabulary).save_pretrained(folder)
    kind(config(vocabulary, **more)).eval().save_pretrained(folder)
    return str(folder)


def classifier(folder: Path) -> str:
    names = {0: "calm", 1: "angry"}
    return saved(folder, WORDS, BertForSequenceClassification, id2label=names, num_labels=2)


def encoder(folder: Path) -> str:
    return saved(folder, WORDS, BertModel)


def causal(folder: Path) -> str:
    """GPT-2 with a tokenizer of whole words, which has no mask token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "a": 1, "red": 2, "cat": 3}
    core = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>").save_pretrained(folder)
    torch.manual_seed(0)
    small = GPT2Config(vocab_size=4, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(small).eval().save_pretrained(folder)
    return str(folder)

"""What the tiny pipelines share: tokenizers of single letters, encoders, autoencoders, a UNet."""

import functools
from dataclasses import dataclass
from typing import Any

import diffusers as D
import torch
import transformers as T
from tokenizers.pre_tokenizers import ByteLevel

__all__ = [
    "LATENT_DIFFUSION",
    "LetterTokenizer",
    "Tiny",
    "autoencoder",
    "bert_tokenizer",
    "clip_config",
    "clip_tokenizer",
    "flow_autoencoder",
    "gemma_text",
    "gemma_tokenizer",
    "image_call",
    "qwen_tokenizer",
    "roberta_tokenizer",
    "t5_encoder",
    "t5_tokenizer",
    "unet",
]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LATENT_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Tiny:
    """A pipeline, the arguments that draw one sample, and how it is asked for several.

    Arguments:
        pipe: The pipeline.
        call: Keyword arguments for one sample, without steps and generator.
        inputs: What it yields: "pixels", "video" or "audio".
        count: Keyword for the samples a prompt; None where prompts or labels are repeated.
        cond: Exponent of the conditional expert; 1 where nothing is guided, None where the guided
            prediction isn't a mixture of two and experts are refused.
        other: What to change in the call so that the condition differs.
        rounding: Relative error of the pipeline's own mixture.
        note: What the table of families says beside the experts.
    """

    pipe: Any
    call: dict[str, Any]
    inputs: str = "pixels"
    count: str | None = "num_images_per_prompt"
    cond: float | None = 5.0
    other: Any = "a dog"
    rounding: float = 1e-6
    note: str = ""

    @property
    def halves(self) -> int:
        """Rows that the networks see for each particle."""
        return 1 if self.cond == 1 else 2

    def rows(self, n: int) -> dict[str, Any]:
        """Keyword arguments for `n` samples of the one prompt."""
        if self.count:
            return {**self.call, self.count: n}
        repeated = {
            k: [v] * n if k == "prompt" else v * n
            for k, v in self.call.items()
            if k in ("prompt", "class_labels")
        }
        return {**self.call, **repeated}


@functools.cache
def clip_tokenizer() -> Any:
    words = ["<|startoftext|>", "!", "<|endoftext|>"]
    words += [c + end for c in sorted(ByteLevel.alphabet()) for end in ("", "</w>")]
    vocab = {word: i for i, word in enumerate(words)}
    return T.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="!")


@functools.cache
def roberta_tokenizer() -> Any:
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocab = {word: i for i, word in enumerate(words)}
    return T.RobertaTokenizer(vocab=vocab, merges=[], model_max_length=77)


@functools.cache
def t5_tokenizer() -> Any:
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = words + [(c, -5.0) for c in LETTERS]
    return T.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=77)


@functools.cache
def gemma_tokenizer() -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    vocab = {word: i for i, word in enumerate(words)}
    return T.GemmaTokenizer(vocab=vocab, merges=[], model_max_length=77)


@functools.cache
def qwen_tokenizer() -> Any:
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = T.Qwen2Tokenizer(vocab=vocab, merges=[])
    # A first token stands in for the real template's words: no caption may be empty.
    tokenizer.chat_template = (
        "<|im_start|>{% for message in messages %}{{ message['content'] }}{% endfor %}"
    )
    return tokenizer


@functools.cache
def bert_tokenizer() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [start + c for c in LETTERS for start in ("", "##")]
    vocab = {word: i for i, word in enumerate(words)}
    return T.BertTokenizer(vocab=vocab, model_max_length=77)


class LetterTokenizer:
    """In place of ChatGLM's tokenizer, whose vocabulary is a file: a number for each letter."""

    def __call__(self, text: str | list[str], max_length: int, **_: Any) -> T.BatchEncoding:
        texts = [text] if isinstance(text, str) else text
        rows = [[ord(c) % 50 + 1 for c in t][:max_length] for t in texts]
        ids = torch.tensor([[0] * (max_length - len(row)) + row for row in rows])
        places = torch.arange(max_length).expand(len(rows), -1)
        return T.BatchEncoding(
            {"input_ids": ids, "attention_mask": (ids > 0).long(), "position_ids": places}
        )


def gemma_text() -> Any:
    config = T.Gemma2Config(
        head_dim=16,
        hidden_size=8,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=2,
        vocab_size=64,
        attn_implementation="eager",
    )
    return T.Gemma2Model(config)


def clip_config() -> Any:
    return T.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=1,
        vocab_size=1000,
        projection_dim=32,
    )


def t5_encoder() -> Any:
    config = T.T5Config(vocab_size=128, d_model=32, d_ff=37, d_kv=8, num_heads=4, num_layers=1)
    return T.T5EncoderModel(config)


def autoencoder(in_channels: int = 3, **config: Any) -> Any:
    return D.AutoencoderKL(
        in_channels=in_channels,
        out_channels=in_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
        **config,
    )


def flow_autoencoder() -> Any:
    return autoencoder(
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )


def unet(cross_attention_dim: int = 32, in_channels: int = 4, **config: Any) -> Any:
    return D.UNet2DConditionModel(
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=2,
        attention_head_dim=(2, 4),
        **config,
    )


def image_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "a cat", "height": 16, "width": 16, "guidance_scale": 5.0} | more

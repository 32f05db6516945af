"""A diffusers pipeline that samples from any masked language model of transformers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, DiffusionPipeline
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from fkdiff.processes.streams import drawn_seeds
from fkdiff.processes.tokens import MaskedPath, Order
from fkdiff.result import Result
from fkdiff.smc import Resample
from fkdiff.terms.consistency import corrector_of, rewards_of
from fkdiff.terms.discrete_correctors import DiscreteCorrect
from fkdiff.terms.pool import pool_terms
from fkdiff.terms.reward import Reward, as_reward
from fkdiff.terms.term import Term
from fkdiff.tokens.sampling import TokenDenoiser, sample_tokens
from fkdiff.tokens.vocabulary import Vocabulary

__all__ = ["MaskedDiffusionPipeline", "MaskedDiffusionPipelineOutput", "shaped"]

_NO_JOINT_LAW = (
    "heuristic: the conditionals of this masked language model need not share a joint law"
)


@dataclass
class MaskedDiffusionPipelineOutput(BaseOutput):
    """Texts or tokens, and the whole weighted cloud where terms steered.

    Arguments:
        sequences: Texts, or tokens (n, L) with special tokens and padding.
        steering: The record of a steered run, else None.
    """

    sequences: list[str] | Tensor
    steering: Result | None = None


class MaskedDiffusionPipeline(DiffusionPipeline, ConfigMixin):
    r"""Draws text by uncovering masks: absorbing-state diffusion with a masked language model.

    The model need not have been trained as a diffusion model; BERT and its kin serve as denoisers
    whose quality falls where nearly all is masked. `Tilt` states its law all the same: that of
    the chain that is run, tilted. Special tokens are never drawn.

    Arguments:
        model: A masked language model of transformers.
        tokenizer: Its tokenizer, with a mask token; None to work with tokens alone.
        mask_token_id: Number of the mask where there is no tokenizer.
        joint_law: Whether the model's conditionals are those of one joint law, as a diffusion
            model's are in the limit; False marks correctors as heuristics.

    Raises:
        ValueError: If the tokenizer has no mask token.

    References:
        | Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024),
        | arXiv 2406.07524

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> size = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> model = BertForMaskedLM(BertConfig(vocab_size=6, **size)).eval()
        >>> pipe = MaskedDiffusionPipeline(model, mask_token_id=5)
        >>> pipe.set_progress_bar_config(disable=True)
        >>> generator = torch.Generator().manual_seed(0)
        >>> pipe(2, length=4, num_inference_steps=3, generator=generator).sequences.shape
        torch.Size([2, 4])
    """

    model_cpu_offload_seq = "model"
    _optional_components = ["tokenizer"]

    @register_to_config
    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        joint_law: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(model=model, tokenizer=tokenizer)
        self.vocabulary = Vocabulary.of(tokenizer, mask_token_id)

    @classmethod
    def from_masked_lm(cls, name: str | Path, **kwargs: Any) -> "MaskedDiffusionPipeline":
        """From a folder or Hub id of a masked language model, by transformers' own loaders.

        Arguments:
            name: Folder or Hub id.
            kwargs: For `AutoModelForMaskedLM.from_pretrained`, such as `dtype`.
        """
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        model = AutoModelForMaskedLM.from_pretrained(name, **kwargs).eval()
        return cls(model, AutoTokenizer.from_pretrained(name))

    def denoiser(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
    ) -> TokenDenoiser:
        """The model as a function (tokens, alpha) -> logits, for `Product` and `sample_tokens`.

        Arguments:
            temperature: Of the model's probabilities; 0 leaves the likeliest token alone.
            top_k: Tokens to draw from, None for all.
            top_p: Least probability of the likeliest tokens to draw from, None for all.

        Raises:
            ValueError: If an argument is out of range.
        """
        _check_shape(temperature, top_k, top_p)
        pad, banned = self.vocabulary.pad, list(self.vocabulary.special)

        def logits(tokens: Tensor, alpha: float) -> Tensor:
            at = tokens.to(self._execution_device)
            seen = torch.ones_like(at) if pad is None else (at != pad).long()
            with torch.no_grad():
                found = self.model(input_ids=at, attention_mask=seen).logits.float()
            found[..., banned] = -torch.inf
            return shaped(found, temperature, top_k, top_p).to(tokens.device)

        return logits

    @torch.no_grad()
    def __call__(
        self,
        num_sequences: int = 1,
        length: int | None = None,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        order: Order = "random",
        remask: float = 0.0,
        schedule: Literal["linear", "cosine"] = "linear",
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["text", "tokens"] = "text",
        return_dict: bool = True,
        *,
        terms: Sequence[Term] | None = None,
        particles: int = 4,
        resample: Resample | None = Resample(),
        micro_batch: int | None = 64,
        monitor: Sequence[Reward | Callable[..., object]] = (),
        select: str | None = None,
    ) -> MaskedDiffusionPipelineOutput | tuple[Any, ...]:
        """Draw texts; with `terms`, from the law that they state.

        Arguments:
            num_sequences: Number of texts for each prompt, at least 1; each is a cloud of its own.
            length: Tokens to draw after the prompt; None where the prompt holds mask tokens.
            prompt: Text before them, or text with mask tokens where to draw.
            num_inference_steps: Transitions.
            temperature: Of the model's probabilities; 0 takes the likeliest token.
            top_k: Tokens to draw from, None for all.
            top_p: Least probability of the likeliest tokens to draw from, None for all.
            order: "random" uncovers at random, as the process does; "confidence" the surest first.
            remask: Share of the greatest probability to mask tokens again, in [0, 1].
            schedule: "linear" or "cosine".
            generator: Source of noise, one or one a text; its state supplies the seed.
            output_type: "text" or "tokens"; without a tokenizer always tokens.
            return_dict: False for a tuple.
            terms: `Tilt`s, pool terms and at most one corrector.
            particles: Of each cloud.
            resample: When and how to resample.
            micro_batch: Rows per network and reward call.
            monitor: Rewards that are reported only.
            select: "best", "sample" or "all".

        Raises:
            ValueError: If an argument is out of range, or a reward reads what isn't there.
        """
        if output_type not in ("text", "tokens"):
            raise ValueError(f"output_type must be text or tokens, got {output_type!r}")
        if num_sequences < 1:
            raise ValueError(f"num_sequences must be at least 1, got {num_sequences}")
        prompts = [prompt or ""] if isinstance(prompt, str | None) else list(prompt)
        template = self.vocabulary.template(prompts, length)
        self._check(terms or (), monitor, temperature, top_k, top_p, particles, resample)
        result = sample_tokens(
            self.denoiser(temperature, top_k, top_p),
            MaskedPath(
                num_inference_steps,
                schedule,
                mask=self.vocabulary.mask,
                order=order,
                remask=remask,
            ),
            *(terms or ()),
            template=template.repeat_interleave(num_sequences, dim=0),
            prompts=[p for p in prompts for _ in range(num_sequences)],
            text=None if self.tokenizer is None else self.vocabulary.texts,
            particles=1 if terms is None else particles,
            resample=resample,
            micro_batch=micro_batch,
            monitor=monitor,
            select=select,
            seed=drawn_seeds(generator, len(template) * num_sequences),
            bar=self._bar,
        )
        if not self.config["joint_law"] and _mixes(terms or ()):
            result.target = f"{_NO_JOINT_LAW}; {result.target}"
        chosen = zip(result.latents, result.selected, strict=True)
        tokens = torch.cat([cloud[slots] for cloud, slots in chosen])
        textual = output_type == "text" and self.tokenizer is not None
        sequences = self.vocabulary.texts(tokens) if textual else tokens
        steering = None if terms is None else result
        if not return_dict:
            return (sequences,) if steering is None else (sequences, steering)
        return MaskedDiffusionPipelineOutput(sequences, steering)

    def _bar(self, steps: Iterable[Any]) -> Iterable[Any]:
        """The pipeline's own progress bar, whose type diffusers doesn't tell."""
        bar: Any = self.progress_bar
        return bar(steps)

    def _check(
        self,
        terms: Sequence[Term],
        monitor: Sequence[Any],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        particles: int,
        resample: Resample | None,
    ) -> None:
        for reward in [*rewards_of(terms), *map(as_reward, monitor)]:
            if reward.inputs == "text" and self.tokenizer is None:
                raise ValueError(
                    f"reward {reward.name!r} reads text, but the pipeline has no tokenizer; "
                    f"give it one, or wrap the function: as_reward(fn, inputs='tokens')"
                )
            if reward.inputs not in ("text", "tokens", "latents"):
                raise ValueError(f"reward {reward.name!r} reads {reward.inputs}, not text")
        steers = resample is not None and particles > 1 and any(t.steers for t in terms)
        if temperature == 0 and steers:
            raise ValueError(
                "temperature must be positive where resampling can fire: copies would draw the "
                "same tokens; raise it, or set resample=None"
            )
        plain = temperature == 1 and top_k is None and top_p is None
        if not plain and _mixes(terms, correctors_only=True):
            raise ValueError(
                "temperature must be 1 and top_k, top_p None with a corrector, whose experts are "
                "the model's own conditionals; take Anneal(1 / temperature)"
            )


def _mixes(terms: Sequence[Term], correctors_only: bool = False) -> bool:
    corrected = corrector_of(terms) or any(isinstance(t, DiscreteCorrect) for t in terms)
    return bool(corrected or (pool_terms(terms) and not correctors_only))


def shaped(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits (..., V) at a temperature, without the unlikeliest tokens.

    Arguments:
        logits: Shape (..., V).
        temperature: Not negative; 0 leaves the likeliest token alone.
        top_k: Tokens that are kept, None for all.
        top_p: Least probability of the likeliest tokens that are kept, None for all.

    >>> shaped(torch.tensor([2.0, 1.0, 0.0]), top_k=2)
    tensor([2., 1., -inf])
    >>> shaped(torch.tensor([2.0, 1.0, 0.0]), temperature=0)
    tensor([0., -inf, -inf])
    """
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits if temperature == 1 else logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ordered, places = logits.sort(descending=True, dim=-1)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = ordered.masked_fill(before >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, places, dropped)
    return logits


def _check_shape(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")

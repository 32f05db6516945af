"""A diffusers pipeline for Gumbel-softmax flows on sequences."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from fkdiff.processes.gaussian import randn_rows
from fkdiff.processes.streams import drawn_seeds
from fkdiff.result import Result
from fkdiff.sequences.alphabet import Alphabet, tokens_of
from fkdiff.sequences.denoiser import SimplexDenoiser
from fkdiff.sequences.guides import check_alphabet
from fkdiff.sequences.sampling import sample_sequences
from fkdiff.sequences.scheduler import GumbelFlowScheduler
from fkdiff.smc import Resample
from fkdiff.terms import Term
from fkdiff.terms.memory import Limit, in_parts
from fkdiff.terms.reward import Reward

__all__ = ["GumbelFlowPipeline", "GumbelFlowPipelineOutput"]


@dataclass
class GumbelFlowPipelineOutput(BaseOutput):
    """Sequences, and the whole weighted cloud where terms steered.

    Arguments:
        sequences: Texts, tokens (n, L) or points of the simplex (n, L, K).
        steering: The record of a steered run, else None.
    """

    sequences: list[str] | Tensor
    steering: Result | None = None


class GumbelFlowPipeline(DiffusionPipeline):
    r"""Draws sequences from a flow on the simplex.

    Arguments:
        denoiser: Gives the posterior of the tokens.
        scheduler: Its path and steps.

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361

    Example:
        >>> net = SimplexDenoiser("ACGT", max_length=8, width=16, layers=1, heads=2).eval()
        >>> pipe = GumbelFlowPipeline(net, GumbelFlowScheduler(4))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> generator = torch.Generator().manual_seed(0)
        >>> out = pipe(2, length=5, num_inference_steps=4, generator=generator)
        >>> [len(sequence) for sequence in out.sequences]
        [5, 5]
    """

    model_cpu_offload_seq = "denoiser"

    def __init__(self, denoiser: SimplexDenoiser, scheduler: GumbelFlowScheduler) -> None:
        super().__init__()
        k, letters = scheduler.path.categories, denoiser.config["alphabet"]
        if k != len(letters):
            raise ValueError(
                f"scheduler must have as many categories as the denoiser has letters "
                f"({len(letters)}), got {k}"
            )
        self.register_modules(denoiser=denoiser, scheduler=scheduler)

    @property
    def alphabet(self) -> Alphabet:
        """Letters of the sequences."""
        return self.denoiser.alphabet

    def lengths(self, length: int | Sequence[int] | None, n: int) -> list[int]:
        """One length for each of n sequences; None is the longest.

        Raises:
            ValueError: If a length is below 1 or beyond the model.
        """
        longest = self.denoiser.config["max_length"]
        given = (
            [longest if length is None else length]
            if not isinstance(length, Sequence)
            else (list(length))
        )
        wide = given * n if len(given) == 1 else given
        if len(wide) != n:
            raise ValueError(f"length must be one number or {n}, got {len(wide)}")
        for value in wide:
            if not 1 <= value <= longest:
                raise ValueError(f"length must be in [1, {longest}], got {value}")
        return [int(value) for value in wide]

    @torch.no_grad()
    def __call__(
        self,
        num_sequences: int = 1,
        length: int | Sequence[int] | None = None,
        class_label: str | Sequence[str | None] | None = None,
        num_inference_steps: int = 50,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["text", "tokens", "simplex"] = "text",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]
        | None = None,
        *,
        terms: Sequence[Term] | None = None,
        particles: int = 4,
        resample: Resample | None = Resample(),
        stochastic: bool | None = None,
        micro_batch: int | None = 256,
        monitor: Sequence[Reward | Callable[..., object]] = (),
        select: str | None = None,
    ) -> GumbelFlowPipelineOutput | tuple[Any, ...]:
        """Draw sequences; with `terms`, from the law that they state.

        Arguments:
            num_sequences: Number of sequences, at least 1.
            length: Of all, or one each; None is the longest that the model knows.
            class_label: Class of all, or one each; None is any.
            num_inference_steps: Transitions.
            eta: Noise of the step; 0 is the deterministic flow, as `stochastic=False`. None is 0
                in a plain call and 1 with terms.
            generator: Source of noise, one or one a sequence; its state is the seed with terms.
            output_type: "text", "tokens" (n, L), -1 at padding, or "simplex" (n, L, K).
            return_dict: False for a tuple.
            callback_on_step_end: (pipe, step, time, {"latents": z}) -> the same, maybe changed.
            terms: `Tilt`s and at most one `StraightThrough`; a cloud for each sequence.
            particles: Of each cloud.
            resample: When and how to resample.
            stochastic: As in `sample_sequences`.
            micro_batch: Rows per network call.
            monitor: Rewards that are reported only.
            select: "best", "sample" or "all".

        Raises:
            ValueError: If an argument is out of range, or a guide reads another alphabet.
        """
        if num_sequences < 1:
            raise ValueError(f"num_sequences must be at least 1, got {num_sequences}")
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1 or None, got {micro_batch}")
        if output_type not in ("text", "tokens", "simplex"):
            raise ValueError(f"output_type must be text, tokens or simplex, got {output_type!r}")
        lengths = self.lengths(length, num_sequences)
        names = (
            [class_label]
            if class_label is None or isinstance(class_label, str)
            else (list(class_label))
        )
        labels = self.denoiser.class_numbers(names * num_sequences if len(names) == 1 else names)
        result = None
        if terms is None:
            vertices = self._plain(
                *(lengths, labels, num_inference_steps, 0.0 if eta is None else eta),
                *(generator, Limit(micro_batch), callback_on_step_end),
            )
        else:
            for reward in [
                *(getattr(t, "reward", getattr(t, "guide", t)) for t in terms),
                *monitor,
            ]:
                check_alphabet(reward, self.alphabet)
            still = eta == 0
            if still and stochastic:
                raise ValueError("eta must be positive with stochastic=True, got 0; leave one out")
            result = sample_sequences(
                self.denoiser,
                self.scheduler.path,
                *terms,
                lengths=lengths,
                labels=labels,
                alphabet=self.alphabet,
                steps=num_inference_steps,
                eta=1.0 if eta is None or still else eta,
                particles=particles,
                resample=resample,
                stochastic=False if still else stochastic,
                micro_batch=micro_batch,
                monitor=monitor,
                select=select,
                seed=drawn_seeds(generator, num_sequences),
                bar=self._bar,
            )
            chosen = zip(result.latents, result.selected, strict=True)
            vertices = torch.cat([cloud[slots] for cloud, slots in chosen])
        sequences = self._shown(vertices, output_type)
        if not return_dict:
            return (sequences,) if result is None else (sequences, result)
        return GumbelFlowPipelineOutput(sequences, result)

    def _bar(self, steps: Iterable[Any]) -> Iterable[Any]:
        """The pipeline's own progress bar, whose type diffusers doesn't tell."""
        bar: Any = self.progress_bar
        return bar(steps)

    def _plain(
        self,
        lengths: list[int],
        labels: Tensor,
        steps: int,
        eta: float,
        generator: torch.Generator | list[torch.Generator] | None,
        limit: Limit,
        callback: Callable[..., dict[str, Any]] | None,
    ) -> Tensor:
        """Vertices (n, L, K) from the scheduler's own steps."""
        self.scheduler.set_timesteps(steps)
        device, k = self._execution_device, len(self.alphabet)
        classes = labels.to(device)
        shape = (len(lengths), max(lengths), k)
        mask = (
            torch.arange(shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
        )
        z = self.scheduler.initial(_uniform(shape, generator).to(device)).float()
        z = z * mask[..., None]
        for index, t in enumerate(self._bar(self.scheduler.timesteps)):
            levels = self.scheduler.levels(t)
            state, at = z.to(self.denoiser.dtype), (levels.alpha, levels.sigma)

            def few(rows: slice, state: Tensor = state, at: Any = at) -> Tensor:
                return self.denoiser(state[rows], *at, mask[rows], classes[rows])

            logits = in_parts(limit, len(z), few).float()
            out = self.scheduler.step(logits, t, z, eta=eta, generator=generator)
            z = out.prev_sample * mask[..., None]
            if callback is not None:
                z = callback(self, index, t, {"latents": z}).get("latents", z)
        vertices = torch.nn.functional.one_hot(z.argmax(-1), k).float() * mask[..., None]
        return vertices.cpu()

    def _shown(self, vertices: Tensor, output_type: str) -> list[str] | Tensor:
        if output_type == "simplex":
            return vertices
        tokens = tokens_of(vertices)
        return tokens if output_type == "tokens" else [self.alphabet.decode(t) for t in tokens]


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator | list[torch.Generator] | None
) -> Tensor:
    """Uniform numbers from one generator, or from one a row."""
    if isinstance(generator, list):
        noise = randn_rows(torch.zeros(shape, dtype=torch.float64), generator)
        return torch.special.ndtr(noise)
    return torch.rand(shape, generator=generator, dtype=torch.float64)

"""Tap of `DiffusionGemmaPipeline` for one canvas.

The pipeline takes its canvas, and the logits that it conditions on, from the scheduler's output;
that is where particles are permuted.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fkdiff.processes.tokens import draw_tokens
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.tokens import TokenTap

__all__ = ["CanvasTap"]


@dataclass
class CanvasTap(TokenTap):
    """`DiffusionGemmaPipeline` for one canvas: tokens and logits come from the scheduler's output.

    Beyond one canvas each row's context is kept in a cache of keys and values, which can't follow
    a resampled particle.
    """

    _first: Tensor | None = field(default=None, repr=False)

    divisible: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        call = self.expanded.arguments
        length = self.pipe.model.config.canvas_length
        if call["gen_length"] > length:
            raise TapError(
                f"gen_length must be at most one canvas ({length} tokens), got "
                f"{call['gen_length']}: the pipeline keeps earlier canvases in a cache of keys "
                f"and values (pipelines/diffusion_gemma/pipeline_diffusion_gemma.py), where they "
                f"can't follow a resampled particle"
            )
        if call["confidence_threshold"] is not None:
            raise TapError(
                "confidence_threshold must be None: with it rows stop early, and which did can't "
                "follow a resampled particle"
            )
        if self.micro_batch is not None and self.micro_batch < len(self.generators):
            raise TapError(
                f"micro_batch must be None with {type(self.pipe).__name__}, whose cache of the "
                f"prompt has all rows, got {self.micro_batch}; use fewer particles"
            )

    @property
    def _decoder(self) -> Any:
        return self.pipe.processor

    def _before(self, bound: inspect.BoundArguments) -> None:
        """Replace the canvas that all rows were drawn for at once by each row's own."""
        canvas = bound.arguments.get("decoder_input_ids")
        if canvas is None:
            canvas = bound.arguments.get("kwargs", {}).get("decoder_input_ids")
        if self._first is not None or canvas is None:
            return
        vocabulary = self.pipe.model.config.get_text_config(decoder=True).vocab_size
        shape = (1, canvas.shape[1])
        rows = [torch.randint(0, vocabulary, shape, generator=g) for g in self.generators]
        self._first = torch.cat(rows).to(canvas.device)
        canvas.copy_(self._first)

    def _after(self, arguments: dict[str, Any], out: Any) -> None:
        index, total = int(arguments["timestep"]), int(self.pipe.scheduler.num_inference_steps)
        canvas = out.prev_sample
        rows = self._transition(index, total, arguments["sample"], canvas, self._drawn)
        if rows is None:
            return
        for name in list(out):
            out[name] = out[name][rows.to(out[name].device)]
        self._logits = out["pred_logits"]

    def _drawn(self, rows: Tensor, streams: Sequence[torch.Generator], draws: int) -> Tensor:
        p = self._probabilities()[rows]
        shape = (draws, p.shape[1])
        u = torch.stack([torch.rand(shape, generator=g) for g in streams], 1).to(p.device)
        return draw_tokens(p.expand(draws, -1, -1, -1), u)

"""Tap of `LLaDA2Pipeline`, which keeps its tokens in a block of its own.

The pipeline's callback may replace the block; that is where particles are permuted, with all the
blocks before.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.tokens import draw_tokens
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.tokens import TokenTap

__all__ = ["LLaDA2Tap"]


@dataclass
class LLaDA2Tap(TokenTap):
    """`LLaDA2Pipeline`: blocks from left to right, each refined in several steps.

    Progress is counted in nominal steps: blocks times `num_inference_steps`, with the post-steps
    of a block at its last.
    """

    _steps: int = 0
    _post: int = 0
    _finished: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resamples and self.expanded.arguments["eos_early_stop"]:
            raise TapError(
                "eos_early_stop must be False where resampling can fire: the pipeline keeps which "
                "rows have ended in a place where they can't follow a resampled particle; texts "
                "are cut at their end all the same"
            )

    @property
    def _decoder(self) -> Any:
        return self.pipe.tokenizer

    @property
    def _prompt_length(self) -> int:
        return self.expanded.arguments["input_ids"].shape[1]

    def _blocks(self) -> tuple[int, int, int]:
        """Length of a block, first block, number of blocks."""
        call = self.expanded.arguments
        size = call["block_length"]
        size = self.pipe.scheduler.config.block_length if size is None else size
        count = -(-(self._prompt_length + call["gen_length"]) // size)
        return size, self._prompt_length // size, count

    def _watched(self, call: dict[str, Any]) -> dict[str, Any]:
        self._steps = min(call["num_inference_steps"], call["gen_length"] // call["minimal_topk"])
        users, asked = call["callback_on_step_end"], call["callback_on_step_end_tensor_inputs"]
        wanted = list(getattr(users, "tensor_inputs", asked) or ["block_x"])

        def callback(pipe: Any, step: int, timestep: int, given: dict[str, Any]) -> dict[str, Any]:
            if users is not None:
                theirs = users(pipe, step, timestep, {k: given[k] for k in wanted})
                given = {**given, **theirs}
            rows = self._on_step(timestep, given)
            block = given["block_x"]
            return {"block_x": block if rows is None else block[rows.to(block.device)]}

        names = [*wanted, "block_x", "active_block", "editing_transfer_index"]
        return {
            **call,
            "callback_on_step_end": callback,
            "callback_on_step_end_tensor_inputs": list(dict.fromkeys(names)),
        }

    @contextmanager
    def _tapped_scheduler(self) -> Iterator[None]:
        with super()._tapped_scheduler():
            front = self.pipe.scheduler
            original = front.check_eos_finished

            def watched(**kwargs: Any) -> Tensor:
                finished = original(**kwargs)
                self._finished = finished
                return finished

            front.check_eos_finished = watched
            yield

    def _on_step(self, timestep: int, given: dict[str, Any]) -> Tensor | None:
        block_x, active = given["block_x"], given["active_block"]
        size, first, count = self._blocks()
        block = block_x.shape[1] // size - 1 - first
        masks = bool(active.any())
        self._post = 0 if masks else self._post + 1
        going = self._goes_on(timestep + masks, masks, given["editing_transfer_index"])
        ended = not going and (block == count - first - 1 or self._all_finished())
        total = (count - first) * self._steps + 1
        index = total - 1 if ended else block * self._steps + min(timestep, self._steps - 1)
        begun = self._generated(block_x)
        return self._transition(
            index, total, begun, begun, functools.partial(self._drawn, block_x)
        )

    def _all_finished(self) -> bool:
        return self._finished is not None and bool(self._finished.all())

    def _goes_on(self, step: int, masks: bool, edited: Tensor) -> bool:
        """What the pipeline will find when it asks whether to go on with this block."""
        call = self.expanded.arguments
        threshold = call["editing_threshold"]
        finished = torch.zeros(1, dtype=torch.bool) if self._finished is None else self._finished
        return self.pipe.scheduler.check_block_should_continue(
            step_idx=step,
            masks_remaining=masks,
            editing_enabled=threshold is not None and threshold > 0,
            editing_transfer_index=edited,
            post_steps=self._post,
            max_post_steps=call["max_post_steps"],
            finished=finished,
        )

    def _mask(self) -> int:
        given = self.expanded.arguments["mask_token_id"]
        return self.pipe.mask_token_id if given is None else given

    def _generated(self, block_x: Tensor) -> Tensor:
        """Tokens after the prompt, masks for those to come, shape (N, gen_length)."""
        length = self.expanded.arguments["gen_length"]
        tokens = block_x[:, self._prompt_length :][:, :length]
        return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=self._mask())

    def _drawn(
        self, block_x: Tensor, rows: Tensor, streams: Sequence[torch.Generator], draws: int
    ) -> Tensor:
        """The block's masks drawn from the step's probabilities; later blocks stay masks."""
        at = rows.to(block_x.device)
        tokens, p = block_x[at], self._probabilities()[at]
        shape = (draws, p.shape[1])
        u = torch.stack([torch.rand(shape, generator=g) for g in streams], 1).to(p.device)
        filled = draw_tokens(p.expand(draws, -1, -1, -1), u)
        block = tokens[:, -p.shape[1] :]
        filled = torch.where(block == self._mask(), filled, block)
        whole = torch.cat([tokens[:, : -p.shape[1]].expand(draws, -1, -1), filled], -1)
        return torch.stack([self._generated(one) for one in whole])

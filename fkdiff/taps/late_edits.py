"""Callbacks that may edit the latents after the last step: the last transition waits for them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.scheduler import Call

__all__ = ["LateEdits"]

Weigh = Callable[[Call, Tensor | None], Tensor | None]


@dataclass
class LateEdits:
    """Has the last transition weighed after the call's own callbacks, which see all rows of it.

    Arguments:
        pipe: The pipeline.
        given: Arguments of the call.
        shards: Which rows are here.
        weigh: (the last call of the scheduler, latents after the callbacks, None where none saw
            them) -> rows that come out of the transition, None where none move.
    """

    pipe: Any
    given: Mapping[str, Any]
    shards: Shards
    weigh: Weigh
    _waiting: Call | None = field(default=None, init=False)
    _seen: Tensor | None = field(default=None, init=False)

    @property
    def expected(self) -> bool:
        """Whether a callback may come after the last step."""
        return bool(self._names)

    @property
    def _known(self) -> Sequence[str]:
        return getattr(self.pipe, "_callback_tensor_inputs", ("latents",))

    @property
    def _decoded(self) -> str:
        """What the pipeline decodes: consistency models the estimate, which is the last state."""
        return "denoised" if "denoised" in self._known else "latents"

    @property
    def _names(self) -> list[str]:
        names = ["callback_on_step_end"] if self._decoded in self._known else []
        return [name for name in (*names, "callback") if callable(self.given.get(name))]

    @property
    def arguments(self) -> dict[str, Any]:
        """The call's arguments, their callbacks watched."""
        given = dict(self.given)
        if "callback_on_step_end" in self._names:
            user = given["callback_on_step_end"]
            # Objects of diffusers name what they read; functions leave it to the call.
            asked = getattr(user, "tensor_inputs", None)
            asked = asked or given.get("callback_on_step_end_tensor_inputs") or ["latents"]
            given["callback_on_step_end"] = self._at_step_end(user, tuple(asked))
            given["callback_on_step_end_tensor_inputs"] = list({*asked, self._decoded})
        if "callback" in self._names:
            given["callback"] = self._at_step(given["callback"])
        return given

    def wait(self, call: Call) -> None:
        """Leave the last transition until the callbacks have come."""
        self._waiting = call

    def finish(self) -> None:
        """Weigh a transition that no callback came for; the rows that come out are in place."""
        if self._waiting is not None:
            self._weighed(self._seen)

    def _at_step_end(self, user: Callable[..., Any], asked: tuple[str, ...]) -> Callable[..., Any]:
        @functools.wraps(user, updated=())
        def callback(pipe: Any, index: int, time: Any, inputs: dict[str, Any]) -> Any:
            before = self._kept(inputs[self._decoded])
            out = user(pipe, index, time, {name: inputs[name] for name in asked})
            if self._waiting is None or not isinstance(out, Mapping):
                return out
            out = {self._decoded: inputs[self._decoded], **out}
            self._seen = latents = out[self._decoded]
            self._check(before, latents)
            if "callback" in self._names:  # which may edit them further
                return out
            # What moves in place may be among them, and must not move twice.
            states = [k for k in out if k == self._decoded or k.endswith("latents")]
            copied = {k: out[k].clone() for k in states}
            rows = self._weighed(latents)
            if rows is None:
                return out
            return {**out, **{k: self.shards.take([v], rows)[0] for k, v in copied.items()}}

        return callback

    def _at_step(self, user: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(user, updated=())
        def callback(index: int, time: Any, latents: Tensor, *more: Any) -> Any:
            before = self._kept(latents)
            out = user(index, time, latents, *more)
            if self._waiting is not None:
                self._check(before, latents)
                rows = self._weighed(latents)
                if rows is not None:
                    latents.copy_(self.shards.take([latents], rows)[0])
            return out

        return callback

    def _kept(self, latents: Tensor) -> Tensor | None:
        """A copy of latents that hold more than what the scheduler steps."""
        fits = self._waiting is None or latents.shape == self._waiting.output["prev_sample"].shape
        return None if fits else latents.clone()

    def _check(self, before: Tensor | None, after: Tensor) -> None:
        if before is not None and (before.shape != after.shape or bool((before != after).any())):
            raise TapError(
                f"latents must not be edited by a callback after the last step here: "
                f"{type(self.pipe).__name__} keeps {tuple(after.shape)}, of which the scheduler "
                f"steps a part; leave the last step as it is, or edit what the call returns"
            )

    def _weighed(self, latents: Tensor | None) -> Tensor | None:
        call, self._waiting = self._waiting, None
        assert call is not None
        stepped = call.output["prev_sample"].shape
        return self.weigh(call, None if latents is None or latents.shape != stepped else latents)

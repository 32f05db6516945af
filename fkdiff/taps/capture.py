"""What a pipeline would call its network with, for another prompt or in another pipeline."""

import copy
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from fkdiff.processes.streams import copies
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.conditioning import PREPARING
from fkdiff.taps.denoiser import binder_of, calling, networks
from fkdiff.taps.shadowing import shadow_of, variant

__all__ = ["EMBEDDED", "LIVE", "captured", "state_in", "time_in", "with_prompt", "with_state"]

_STATES = ("sample", "hidden_states", "x")
_SOUNDS = ("audio_hidden_states",)  # a second state, with a prediction of its own
_TIMES = ("timestep", "timesteps", "t", "sigma", "audio_timestep", "audio_sigma")
EMBEDDED = re.compile(r"\w*prompt_(embeds|attention_mask)\w*")
"""Arguments of pipelines that stand for a prompt's text."""
LIVE = frozenset({*_STATES, *_SOUNDS, *_TIMES})
"""Arguments of networks that change from step to step; all the others are conditions."""


class _EndOfStep(Exception):
    """Ends the captured run at its first step; never leaves this module."""


def captured(
    pipe: Any, arguments: dict[str, Any], starts: Sequence[torch.Generator]
) -> list[tuple[str, inspect.BoundArguments]]:
    """Networks' names and arguments in the first step of a call, none of them evaluated.

    Arguments:
        pipe: The pipeline, which isn't disturbed: a copy of it makes the call.
        arguments: Keyword arguments of the call.
        starts: Each row's generator as it was before the run.
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    base = type(scheduler)
    step = functools.wraps(base.step)(_stop)  # pipelines read its signature
    scheduler.__class__ = variant(base, step=step)
    shadow = shadow_of(pipe, scheduler, without=PREPARING)
    calls: list[tuple[str, inspect.BoundArguments]] = []
    with ExitStack() as stack:
        for name, network in networks(pipe).items():
            stack.enter_context(_watching(name, network, calls))
        given = {k: v for k, v in arguments.items() if not k.startswith("callback")}
        try:
            shadow(**given, generator=copies(starts))
        except _EndOfStep:
            return calls
    raise RuntimeError(f"{type(pipe).__name__} ended without a step")


def with_prompt(pipe: Any, arguments: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """Arguments of a call with every prompt replaced, also those that are given as embeddings.

    Embeddings of negative prompts go with them: they may have another length than the prompt's.

    Raises:
        TapError: If the call has no prompt.
    """
    embedded = arguments.get("prompt_embeds")
    if arguments.get("prompt") is None and embedded is not None:
        given = {k: v for k, v in arguments.items() if not EMBEDDED.fullmatch(k)}
        given.pop("latents", None)
        if given.get("negative_prompt", "") is None:  # as PixArt asks with embeddings alone
            del given["negative_prompt"]
        return {**given, "prompt": [prompt] * len(embedded)}
    if arguments.get("prompt") is None:
        raise TapError(
            f"other must be a network, a pipeline or a function here, got the prompt {prompt!r}; "
            f"{type(pipe).__name__} was called without prompt"
        )
    given = dict(arguments)
    many = isinstance(given["prompt"], list)
    given["prompt"] = [prompt] * len(given["prompt"]) if many else prompt
    for name in ("prompt_2", "prompt_3", "latents"):
        given.pop(name, None)
    return given


def with_state(
    conditions: inspect.BoundArguments, live: inspect.BoundArguments
) -> inspect.BoundArguments:
    """Captured arguments with the state and the time of a call under way."""
    merged = dict(conditions.arguments)
    merged |= {name: value for name, value in live.arguments.items() if name in LIVE}
    return inspect.BoundArguments(conditions.signature, merged)  # pyright: ignore[reportArgumentType]


def state_in(bound: inspect.BoundArguments) -> tuple[str, Any]:
    """What a call names the state, and the state: (B, *), or a list of rows."""
    return next((name, bound.arguments[name]) for name in _STATES if name in bound.arguments)


def time_in(bound: inspect.BoundArguments) -> Any:
    """The time that a call gives its network, 0 where it gives none."""
    return next((bound.arguments[name] for name in _TIMES if name in bound.arguments), 0)


def _stop(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise _EndOfStep


def _watching(name: str, module: torch.nn.Module, calls: list[Any]) -> Any:
    bind = binder_of(module)

    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        bound = bind(args, kwargs)
        calls.append((name, bound))
        sounds = [bound.arguments.get(name) for name in _SOUNDS]
        others = [torch.zeros_like(sound) for sound in sounds if sound is not None]
        return _Output((_silent(self, bound), *others))

    return calling(module, call)


def _silent(module: Any, bound: inspect.BoundArguments) -> Any:
    """Zeros in the shape of what the network would return."""
    _, state = state_in(bound)
    if isinstance(state, list):
        return [torch.zeros_like(row) for row in state]
    channels = getattr(getattr(module, "config", None), "out_channels", None)
    if state.ndim == 4 and channels:  # learned variances, inpainting networks
        return state.new_zeros(len(state), channels, *state.shape[2:])
    return torch.zeros_like(state)


class _Output(tuple[Any, ...]):
    """A silent network's output, by position and by its usual name."""

    @property
    def sample(self) -> Any:
        """The prediction."""
        return self[0]

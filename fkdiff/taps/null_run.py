"""Decoding by an unknown pipeline's own tail: a run of two steps that hands over the latents.

Its networks are silent, and its scheduler returns what is to be decoded.
"""

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.taps.conditioning import PREPARING
from fkdiff.taps.denoiser import calling, networks
from fkdiff.taps.outputs import blank
from fkdiff.taps.results import first_field
from fkdiff.taps.shadowing import shadow_of, variant

__all__ = ["null_run"]


def null_run(
    pipe: Any, scheduler: Any, arguments: Mapping[str, Any], template: Any, z: Tensor
) -> Tensor:
    """Decode with the pipeline's own tail, for families that have no entry.

    Arguments:
        pipe: The pipeline, possibly in the middle of a run, which isn't disturbed.
        scheduler: Its untapped scheduler.
        arguments: Arguments of a call that yields `len(z)` samples as arrays: what some families
            return as tensors isn't scaled to [0, 1].
        template: A network output, whose type and shape the silent network imitates.
        z: Latents, shape (n, *).

    Returns:
        Samples as the pipeline gives them, images and frames with channels moved first, waveforms
        of those that drop the channels (AudioLDM2) with one channel.
    """
    fixed = copy.deepcopy(scheduler)
    fixed.__class__ = _returning(type(scheduler), fixed, z)
    shadow = shadow_of(pipe, fixed, without=PREPARING)  # watched by the run, bound to its pipeline
    with ExitStack() as stack:
        for network in networks(pipe).values():
            stack.enter_context(_silent(network, template))
        given = {**arguments, **_handing(pipe, z), "num_inference_steps": 2}
        out = first_field(shadow(**given))
    samples = torch.as_tensor(out if isinstance(out, Tensor) else np.asarray(out)).to(z.device)
    if samples.ndim == 2:
        return samples[:, None]
    return samples if isinstance(out, Tensor) or samples.ndim < 4 else samples.movedim(-1, -3)


class _Handed(tuple[Any, ...]):
    """Latents in the place of a step's output, by position and by name."""

    @property
    def prev_sample(self) -> Tensor:
        """The state after the step."""
        return self[0]

    @property
    def pred_original_sample(self) -> Tensor:
        """The denoised estimate."""
        return self[1]


def _handing(pipe: Any, z: Tensor) -> dict[str, Any]:
    """A callback that hands the latents over after what the loop itself does to them.

    Inpainting pastes the image of the call's first prompt in, whosever latents they are.
    """
    if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
        return {}

    def callback(_: Any, index: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": z} if given["latents"].shape == z.shape else {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents"]}


def _returning(base: type, fixed: Any, z: Tensor) -> type:
    """A class of schedulers whose steps return z; copies, for another modality, stand still."""

    @functools.wraps(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        sample = bound.arguments["sample"]
        latents = torch.cat([z] * max(1, len(sample) // len(z))) if self is fixed else sample
        return _Handed((latents, latents))

    signature = inspect.signature(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    return variant(base, step=step)


@contextmanager
def _silent(module: torch.nn.Module, template: Any) -> Iterator[None]:
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        return blank(template, next(len(v) for v in values if isinstance(v, Tensor) and v.ndim))

    with calling(module, call):
        yield

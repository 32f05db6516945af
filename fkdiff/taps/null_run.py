"""Decoding by an unknown pipeline's own tail: a run of two steps that hands over the latents.

Its networks are silent, and its scheduler returns what is to be decoded.
"""

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
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
        arguments: Arguments of a call that yields `len(z)` samples.
        template: A network output, whose type and shape the silent network imitates.
        z: Latents, shape (n, *).

    Returns:
        Samples as the pipeline gives them for `output_type="pt"`; images and frames of those
        that return arrays all the same (DiT, DDPM) with channels moved first, waveforms of those
        that drop the channels (AudioLDM2) with one channel.
    """
    fixed = copy.deepcopy(scheduler)
    fixed.__class__ = _returning(type(scheduler), fixed, z)
    shadow = shadow_of(pipe, fixed, without=PREPARING)  # watched by the run, bound to its pipeline
    with ExitStack() as stack:
        for network in networks(pipe).values():
            stack.enter_context(_silent(network, template))
        out = first_field(shadow(**{**arguments, "num_inference_steps": 2}))
    samples = torch.as_tensor(out if isinstance(out, Tensor) else np.asarray(out))
    if samples.ndim == 2:
        return samples[:, None]
    return samples if isinstance(out, Tensor) or samples.ndim < 4 else samples.movedim(-1, -3)


def _returning(base: type, fixed: Any, z: Tensor) -> type:
    """A class of schedulers whose steps return z; copies, for another modality, stand still."""

    @functools.wraps(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        sample = bound.arguments["sample"]
        latents = torch.cat([z] * max(1, len(sample) // len(z))) if self is fixed else sample
        if bound.arguments.get("return_dict", True):
            return SimpleNamespace(prev_sample=latents, pred_original_sample=latents)
        return latents, latents

    signature = inspect.signature(base.step)  # pyright: ignore[reportAttributeAccessIssue]
    return variant(base, step=step)


@contextmanager
def _silent(module: torch.nn.Module, template: Any) -> Iterator[None]:
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        return blank(template, next(len(v) for v in values if isinstance(v, Tensor) and v.ndim))

    with calling(module, call):
        yield

"""What a run's estimates look like while it lasts, decoded as cheaply as the family allows."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from fkdiff.taps.decode import decoder_for
from fkdiff.terms.step import Step

__all__ = ["SMALL_DECODERS", "preview", "small_decoder"]

_SD, _SDXL, _SD3, _FLUX = (f"madebyollin/tae{name}" for name in ("sd", "sdxl", "sd3", "f1"))

SMALL_DECODERS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "StableDiffusionPipeline",
                "StableDiffusionImg2ImgPipeline",
                "StableDiffusionInpaintPipeline",
                "StableDiffusionControlNetPipeline",
                "LatentConsistencyModelPipeline",
                "PixArtAlphaPipeline",
            ),
            _SD,
        ),
        **dict.fromkeys(
            (
                "StableDiffusionXLPipeline",
                "StableDiffusionXLImg2ImgPipeline",
                "StableDiffusionXLInpaintPipeline",
                "PixArtSigmaPipeline",
                "HunyuanDiTPipeline",
                "KolorsPipeline",
                "AuraFlowPipeline",
            ),
            _SDXL,
        ),
        "StableDiffusion3Pipeline": _SD3,
        **dict.fromkeys(
            (
                "FluxPipeline",
                "FluxImg2ImgPipeline",
                "FluxInpaintPipeline",
                "ChromaPipeline",
                "Lumina2Pipeline",
                "ZImagePipeline",
            ),
            _FLUX,
        ),
    }
)
"""Where each family's small decoder is, a model of `AutoencoderTiny` on the Hub."""


class _Borrowing:
    """A pipeline with another autoencoder in the place of its own."""

    def __init__(self, pipe: Any, vae: Any) -> None:
        self._pipe, self.vae = pipe, vae

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)


def small_decoder(pipe: Any) -> AutoencoderTiny | None:
    """The family's small decoder: the pipeline's own if that is small, else the Hub's.

    Arguments:
        pipe: A pipeline.

    Returns:
        None for a family without one.

    Raises:
        OSError: If it isn't in the cache and can't be fetched.
    """
    own = getattr(pipe, "vae", None)
    if isinstance(own, AutoencoderTiny):
        return own
    for base in type(pipe).__mro__:
        if own is not None and base.__name__ in SMALL_DECODERS:
            found: Any = AutoencoderTiny.from_pretrained(SMALL_DECODERS[base.__name__])
            return found.to(device=own.device, dtype=own.dtype)
    return None


def preview(step: Step, small: AutoencoderTiny | None) -> Tensor | None:
    """The estimates of all particles as pixels, shape (N, 3, h, w), values in [0, 1].

    What a reward has decoded already is taken as it is; nothing of the run changes.

    Arguments:
        step: A transition of a tapped pipeline, as `steer(watch=...)` hands it over.
        small: From `small_decoder`; None shows only what was decoded anyway.
    """
    tap: Any = step.source
    pipe, decoder = tap.pipe, decoder_for(tap.pipe)
    if tap.inputs != "pixels":
        return None
    own = getattr(pipe, "vae", None)
    seen = step.decoded_samples()
    if seen is None and (own is None or own is small):
        step.decode("pixels")
        seen = step.decoded_samples()
    if seen is not None or small is None or decoder is None:
        return None if seen is None else seen[:, :3]
    with step.source.cost.time("preview"), torch.no_grad():
        rows, place = step.unique
        x0 = step.x0[rows.to(step.x0.device)]
        pixels = decoder.run(_Borrowing(pipe, small), x0, tap.expanded.arguments)
        return pixels.float()[place.to(pixels.device)]

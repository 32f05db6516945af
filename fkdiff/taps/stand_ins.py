"""Made-up samples of the shape that a pipeline's call will yield, known before it is made."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from fkdiff.taps.decode import decoder_for
from fkdiff.taps.denoiser import networks
from fkdiff.terms.trial import StandIn, made_up

__all__ = ["stand_in_of_call"]

_SECONDS = 1
_GUESS = 64, 64


def stand_in_of_call(pipe: Any, call: Mapping[str, Any], inputs: str) -> StandIn | None:
    """Two samples as a reward would read them; None for latents, whose shape the call doesn't say.

    Pictures of a known family are of the very size, where neither an image given to the call nor
    a bin of sizes decides it; what has other axes is as long as it usually is.

    Arguments:
        pipe: The pipeline.
        call: Arguments of its call.
        inputs: "pixels", "rgba", "video", "audio" or "latents".
    """
    device = getattr(pipe, "_execution_device", getattr(pipe, "device", "cpu"))
    if inputs == "latents":
        return None
    if inputs == "audio":
        rate, channels = _sound(pipe)
        return StandIn(made_up(inputs, channels, _SECONDS * rate, device=device), exact=False)
    (height, width), exact = _size(pipe, call)
    if inputs == "video":
        frames = call.get("num_frames") or call.get("video_length") or 9
        return StandIn(made_up(inputs, int(frames), 3, height, width, device=device), False)
    channels = 4 if inputs == "rgba" else 3
    return StandIn(made_up(inputs, channels, height, width, device=device), exact)


def _size(pipe: Any, call: Mapping[str, Any]) -> tuple[tuple[int, int], bool]:
    """Height and width of the pictures, and whether they are certain."""
    factor, agreed = _factor(pipe)
    certain = agreed and decoder_for(pipe) is not None and not _binned(pipe, call)
    height, width = call.get("height"), call.get("width")
    if isinstance(height, int) and isinstance(width, int):
        rounded = height % (2 * factor) or width % (2 * factor)
        return (height, width), certain and not rounded
    given = _image_size(call.get("image"))
    if given is not None:
        return given, False
    usual = getattr(pipe, "default_sample_size", None) or _trained(pipe)
    sides = usual if isinstance(usual, list | tuple) else (usual, usual)
    if not all(isinstance(side, int) for side in sides):
        return _GUESS, False
    certain = certain and "image" not in call and height is None and width is None
    return (sides[0] * factor, sides[-1] * factor), certain


def _factor(pipe: Any) -> tuple[int, bool]:
    """Pixels for each cell of latents, and whether pipeline and autoencoder agree on it."""
    vae = getattr(pipe, "vae", None)
    if vae is None:
        return 1, True
    stated = getattr(pipe, "vae_scale_factor", None) or getattr(
        pipe, "vae_scale_factor_spatial", None
    )
    blocks = getattr(vae.config, "block_out_channels", None)
    own = 2 ** (len(blocks) - 1) if blocks else None
    return int(stated or own or 8), None in (stated, own) or stated == own


def _trained(pipe: Any) -> Any:
    """Size of latents that the network was trained on."""
    return getattr(next(iter(networks(pipe).values())).config, "sample_size", None)


def _binned(pipe: Any, call: Mapping[str, Any]) -> bool:
    """Whether the size is rounded to one of those that the model was trained on."""
    name = "use_resolution_binning"
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return bool(call.get(name, parameter is not None and parameter.default))


def _image_size(image: Any) -> tuple[int, int] | None:
    """Height and width of an image that the call is given, in whatever form."""
    while isinstance(image, list | tuple) and image:
        image = image[0]
    if image is None or isinstance(image, list | tuple):
        return None
    if isinstance(image, np.ndarray):
        return image.shape[-3], image.shape[-2]
    if hasattr(image, "shape"):
        return image.shape[-2], image.shape[-1]
    return image.size[1], image.size[0]


def _sound(pipe: Any) -> tuple[int, int]:
    """Sampling rate and channels."""
    for part in ("vae", "vocoder"):
        config = getattr(getattr(pipe, part, None), "config", None)
        rate = getattr(config, "sampling_rate", None)
        if rate is not None:
            return int(rate), int(getattr(config, "audio_channels", 1))
    return 16000, 1

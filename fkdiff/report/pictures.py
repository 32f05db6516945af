"""Samples as pictures: which results have them, and how they go inline into a page."""

import base64
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fkdiff.report.png import encode_png

if TYPE_CHECKING:
    from torch import Tensor

    from fkdiff.result import Result

__all__ = ["data_uri", "has_pictures", "inline", "kind", "to_image"]

_CRISP = 256  # pictures below this width are enlarged without smoothing


def has_pictures(result: "Result") -> bool:
    """Whether the samples are images, shape (P, K, 1 | 3 | 4, h, w)."""
    samples = result.samples
    return samples is not None and samples.ndim == 5 and samples.shape[2] in (1, 3, 4)


def kind(result: "Result") -> str:
    """What the samples are, in words for a report."""
    if result.samples is None:
        return "none were decoded"
    if has_pictures(result):
        return "images"
    guess = {6: "video", 4: "audio"}.get(result.samples.ndim, "not images")
    return f"{guess}, shape {tuple(result.samples.shape)}"


def to_image(sample: "Tensor") -> Image.Image:
    """A picture of values in [0, 1], shape (1 | 3 | 4, h, w); what isn't a number is black.

    >>> import torch
    >>> to_image(torch.tensor([0.0, 2.0, float("nan")]).reshape(3, 1, 1)).getpixel((0, 0))
    (0, 255, 0)
    """
    values = np.nan_to_num(sample.detach().float().cpu().numpy(), posinf=1.0, neginf=0.0)
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def inline(image: Image.Image, shown: int) -> tuple[str, bool]:
    """A picture for a page: its data URI, and whether to enlarge it pixel by pixel.

    Arguments:
        image: Picture of any size.
        shown: Width in CSS pixels; larger pictures are reduced to twice that, so that a page of
            64 photographs can still be mailed.
    """
    most = 2 * shown
    if image.width > max(most, _CRISP):
        image = image.resize(
            (most, round(image.height * most / image.width)), Image.Resampling.LANCZOS
        )
    return data_uri(encode_png(image), "image/png"), image.width < _CRISP


def data_uri(data: bytes, media: str) -> str:
    """Bytes as an address that needs no other file.

    >>> data_uri(b"fk", "image/png")
    'data:image/png;base64,Zms='
    """
    return f"data:{media};base64,{base64.b64encode(data).decode()}"

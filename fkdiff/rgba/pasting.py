"""Cut-outs over backgrounds: checkerboards, composites, and one picture pasted into another."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["checkerboard", "over", "paste"]

_MOST_PIXELS = 89_478_485
"""Pixels from which on Pillow takes a picture for an attack."""


def checkerboard(height: int, width: int, cell: int = 8) -> Tensor:
    """What transparent pictures are shown on, (3, h, w): light and lighter grey.

    >>> checkerboard(2, 2, cell=1)[0]
    tensor([[1.0000, 0.8500],
            [0.8500, 1.0000]])
    """
    rows, columns = torch.arange(height) // cell, torch.arange(width) // cell
    odd = (rows[:, None] + columns[None]) % 2
    return (1 - 0.15 * odd).expand(3, -1, -1)


def over(rgba: Tensor, ground: Tensor) -> Tensor:
    r"""Pictures (..., 4, h, w) over backgrounds, $\alpha F + (1 - \alpha) B$, (..., 3, h, w).

    Arguments:
        rgba: Straight colour and alpha in [0, 1].
        ground: (3, h, w), or of the same leading shape.
    """
    colour, share = rgba[..., :3, :, :], rgba[..., 3:, :, :]
    return share * colour + (1 - share) * ground


def paste(
    background: "Image.Image",
    cutout: "Image.Image",
    at: tuple[float, float] = (0.5, 0.5),
    scale: float = 0.5,
) -> "Image.Image":
    """A cut-out put into a picture, which keeps its size and, where it has one, its alpha.

    Arguments:
        background: Any picture.
        cutout: A picture with alpha.
        at: Centre of the cut-out's picture, shares of the background's width and height.
        scale: Height of the cut-out's picture, a share of the background's.

    Raises:
        ValueError: If the cut-out has no alpha, the scale isn't positive or makes it vast, a
            number isn't finite, nothing of it would be seen, or a picture has more than 16 bits.
    """
    from PIL import Image

    if "A" not in cutout.getbands() and "transparency" not in cutout.info:
        raise ValueError(f"cutout must have an alpha channel, got mode {cutout.mode}")
    if not 0 < scale < 100:
        raise ValueError(f"scale must be positive and below 100, got {scale}; 0.5 is half as high")
    if not all(abs(share) <= 1000 for share in at):
        raise ValueError(
            f"at must be numbers of at most 1000 in size, got {at}; 0.5,0.5 is centred"
        )
    background, cutout = _eight_bits(background), _eight_bits(cutout)
    height = max(1, round(scale * background.height))
    width = max(1, round(height * cutout.width / cutout.height))
    left = round(at[0] * background.width - width / 2)
    top = round(at[1] * background.height - height / 2)
    if not (-width < left < background.width and -height < top < background.height):
        raise ValueError(f"at must put the cut-out into the picture, got {at}; 0.5,0.5 is centred")
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"scale must leave the cut-out at most {_MOST_PIXELS} pixels, got {width} x {height}"
        )
    # Resized with colour multiplied by alpha: what is invisible bleeds no colour into edges.
    whole = cutout.convert("RGBA").convert("RGBa")
    small = whole.resize((width, height), Image.Resampling.LANCZOS)
    layer = Image.new("RGBa", background.size)
    layer.paste(small, (left, top))
    behind = np.asarray(background.convert("RGBA").convert("RGBa"), np.float32)
    front = np.asarray(layer, np.float32)
    front[..., :3] = np.minimum(front[..., :3], front[..., 3:])  # Lanczos overshoots
    mixed = front + (1 - front[..., 3:] / 255) * behind
    kept = Image.fromarray((mixed + 0.5).clip(0, 255).astype(np.uint8), "RGBa").convert("RGBA")
    return kept if "A" in background.getbands() else kept.convert("RGB")


def _eight_bits(image: "Image.Image") -> "Image.Image":
    """A picture with 8 bits a channel: Pillow clips 16-bit grey, where it should be scaled.

    Raises:
        ValueError: If its numbers have no known white.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float64)
    if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(
            f"picture must have 8 or 16 bits a channel, got mode {image.mode} with values up to "
            f"{values.max(initial=0):g}; save it as 8-bit RGB"
        )
    grey = Image.fromarray((values / 257).round().astype(np.uint8), "L")
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the one value that stands for nothing
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8), "L"))
    return grey

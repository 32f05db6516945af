"""Image preprocessing of judging models as batched, differentiable tensor operations."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fkdiff.terms.reward_function import RewardError, pil_images

__all__ = ["ImageSettings", "preprocess", "settings_of"]

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class ImageSettings:
    """How a model wants its images; the defaults are those of CLIP.

    Arguments:
        size: Edge of the result, or (height, width).
        mode: Always "RGB"; open_clip states it.
        mean: Subtracted from each channel.
        std: Divided by, for each channel.
        interpolation: "bicubic", "bilinear" or "random" (bicubic when it isn't training).
        resize_mode: "shortest" (resize the shortest edge, crop the centre), "longest" (resize the
            longest edge, pad) or "squash".
        fill_color: Level of the padding, from 0 to 255.
        resize: Shortest edge before the crop, None for `size` itself.
        floor_crop: Whether a crop's odd pixel goes below rather than to the nearest even place.
    """

    size: int | tuple[int, int] = 224
    mode: str = "RGB"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0
    resize: int | None = None
    floor_crop: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)


def preprocess(pixels: Tensor, settings: ImageSettings) -> Tensor:
    """What a model's own preprocessing does to Pillow images, done to a batch of tensors.

    Resizing is antialiased and limited to [0, 1] as Pillow's is; only Pillow's rounding to 8 bits
    is left out, so before normalisation values differ by about 1 / 255 at most.

    Arguments:
        pixels: Images (n, 3, h, w) in [0, 1].
        settings: How the model wants them.

    Returns:
        Normalised images (n, 3, height, width), float32.

    Example:
        >>> preprocess(torch.rand(2, 3, 40, 60), ImageSettings(size=32)).shape
        torch.Size([2, 3, 32, 32])
    """
    height, width = settings.shape
    # open_clip itself forgets the interpolation of a "shortest" target that isn't square.
    forgotten = settings.resize_mode == "shortest" and height != width
    bilinear = settings.interpolation == "bilinear" and not forgotten
    mode = "bilinear" if bilinear else "bicubic"
    before = (settings.resize, settings.resize) if settings.resize else (height, width)
    target = _resized(tuple(pixels.shape[-2:]), before, settings.resize_mode)
    # Rows first and each pass limited, as in Pillow: at sharp edges it matters (6 of 255 levels).
    x = _resize(pixels.float(), (pixels.shape[-2], target[1]), mode)
    x = _resize(x, target, mode)
    if settings.resize_mode != "squash":
        x = _centre(x, (height, width), settings.fill_color / 255, settings.floor_crop)
    mean, std = (x.new_tensor(values)[:, None, None] for values in (settings.mean, settings.std))
    return (x - mean) / std


def settings_of(processor: Any) -> ImageSettings:
    """Reads the settings of an image processor of transformers, and tries them on a picture.

    Raises:
        RewardError: If it does to images what these settings can't say.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> settings_of(ViTImageProcessor()).resize_mode
        'squash'
    """
    processor = getattr(processor, "image_processor", processor)
    settings = _read(processor)
    noise = torch.rand((1, 3, 83, 118), generator=torch.Generator().manual_seed(0))
    picture = (noise * 255).round() / 255
    theirs = processor(images=pil_images(picture), return_tensors="pt")["pixel_values"]
    ours = preprocess(picture, settings)
    std = ours.new_tensor(settings.std)[:, None, None]
    if theirs.shape != ours.shape or ((theirs - ours) * std).abs().max() > 4 / 255:
        raise RewardError(
            f"{type(processor).__name__} prepares images in a way that isn't known here; wrap the "
            "model yourself: as_reward(fn, inputs='pil')"
        )
    return settings


def _read(processor: Any) -> ImageSettings:
    size = dict(processor.size or {})
    crops = bool(getattr(processor, "do_center_crop", False))
    crop = dict(processor.crop_size) if crops else {}
    normalises = bool(processor.do_normalize)
    edge, pct = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    if edge and pct:  # ConvNeXt's: sizes from 384 on are squashed
        resize, crop = (int(edge / pct) if edge < 384 else None), {"height": edge, "width": edge}
        mode = "shortest" if resize else "squash"
    else:
        resize, mode = edge, "shortest" if edge else "squash"
    shape = crop if mode == "shortest" else size
    shape = shape if "height" in shape else crop
    if not {"height", "width"} <= set(shape):
        raise RewardError(f"{type(processor).__name__} makes images of no fixed size: {size}")
    return ImageSettings(
        size=(shape["height"], shape["width"]),
        mean=tuple(processor.image_mean) if normalises else (0.0,) * 3,
        std=tuple(processor.image_std) if normalises else (1.0,) * 3,
        interpolation=_RESAMPLE.get(int(processor.resample), "bicubic"),
        resize_mode=mode,
        resize=resize,
        floor_crop=True,
    )


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(x.shape[-2:]) == size:
        return x.clamp(0, 1)
    x = F.interpolate(x, size, mode=mode, antialias=True, align_corners=False)
    return x.clamp(0, 1)


def _centre(x: Tensor, size: tuple[int, int], fill: float, floor: bool) -> Tensor:
    """The centre of images, padded where they are smaller."""
    short = [max(wanted - has, 0) for wanted, has in zip(size, x.shape[-2:], strict=True)]
    sides = [short[1] // 2, (short[1] + 1) // 2, short[0] // 2, (short[0] + 1) // 2]
    x = F.pad(x, sides, value=fill)
    spare = [has - wanted for wanted, has in zip(size, x.shape[-2:], strict=True)]
    top, left = (n // 2 if floor else round(n / 2) for n in spare)
    return x[..., top : top + size[0], left : left + size[1]]


def _resized(size: tuple[int, ...], target: tuple[int, int], mode: str) -> tuple[int, int]:
    """Height and width after resizing and before cropping, rounded as open_clip rounds them."""
    (height, width), ratios = size, [s / t for s, t in zip(size, target, strict=True)]
    if mode == "squash":
        return target
    if mode == "longest":
        return round(height / max(ratios)), round(width / max(ratios))
    if target[0] == target[1]:  # as torchvision's Resize(int): the longer edge is rounded down
        least = min(size)
        return int(target[0] * height / least), int(target[0] * width / least)
    return round(height / min(ratios)), round(width / min(ratios))

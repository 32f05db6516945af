"""Image preprocessing of open_clip models as batched, differentiable tensor operations."""

from typing import Any

from open_clip.transform import PreprocessCfg, center_crop_or_pad
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

__all__ = ["preprocess"]


def preprocess(pixels: Tensor, settings: dict[str, Any]) -> Tensor:
    """What a model's own preprocessing does to Pillow images, done to a batch of tensors.

    Resizing is antialiased and limited to [0, 1] as Pillow's is; only Pillow's rounding to 8 bits
    is left out, so before normalisation values differ by about 1 / 255 at most.

    Arguments:
        pixels: Images (n, 3, h, w) in [0, 1].
        settings: Preprocessing settings of an open_clip model: size, mean, std, interpolation,
            resize_mode ("shortest", "longest" or "squash") and fill_color.

    Returns:
        Normalised images (n, 3, size, size), float32.

    Example:
        >>> import torch
        >>> preprocess(torch.rand(2, 3, 40, 60), {"size": 32}).shape
        torch.Size([2, 3, 32, 32])
    """
    cfg = PreprocessCfg(**settings)
    height, width = cfg.size if isinstance(cfg.size, tuple | list) else (cfg.size, cfg.size)
    # open_clip itself forgets the interpolation of a "shortest" target that isn't square.
    forgotten = cfg.resize_mode == "shortest" and height != width
    bilinear = cfg.interpolation == "bilinear" and not forgotten
    mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
    target = _resized(pixels.shape[-2:], (height, width), cfg.resize_mode)
    # Rows first and each pass limited, as in Pillow: at sharp edges it matters (6 of 255 levels).
    x = F.resize(pixels.float(), [pixels.shape[-2], target[1]], mode, antialias=True).clamp(0, 1)
    x = F.resize(x, target, mode, antialias=True).clamp(0, 1)
    if cfg.resize_mode != "squash":
        fill: Any = cfg.fill_color / 255  # annotated as int there, since Pillow wants one
        x = center_crop_or_pad(x, [height, width], fill=fill)
    return F.normalize(x, list(cfg.mean), list(cfg.std))


def _resized(size: tuple[int, ...], target: tuple[int, int], mode: str) -> list[int]:
    """Height and width after resizing and before cropping, rounded as open_clip rounds them."""
    ratios = [source / wanted for source, wanted in zip(size, target, strict=True)]
    if mode == "squash":
        return list(target)
    if mode == "longest":
        return [round(source / max(ratios)) for source in size]
    if target[0] == target[1]:  # torchvision's Resize(int): the longer edge is rounded down
        return [int(target[0] * source / min(size)) for source in size]
    return [round(source / min(ratios)) for source in size]

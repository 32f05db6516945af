"""The tail's last stage: decoded samples become pictures or frames a few rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

__all__ = ["sliced_postprocess"]


@contextmanager
def sliced_postprocess(pipe: Any, micro_batch: int | None) -> Iterator[None]:
    """Let an image processor convert `micro_batch` rows at a time while the block lasts.

    Converting takes several copies of all pictures at full resolution otherwise; each row is
    converted by itself, so that the result is the same.

    Arguments:
        pipe: A pipeline; one without an `image_processor` of the usual kind is left alone.
        micro_batch: Rows at a time, None for all at once.
    """
    processor: Any = getattr(pipe, "image_processor", None)
    stock = getattr(type(processor), "postprocess", None) is VaeImageProcessor.postprocess
    if micro_batch is None or not stock:
        yield
        return
    original, shadowed = processor.postprocess, vars(processor).get("postprocess")

    def postprocess(
        image: Any, output_type: str = "pil", do_denormalize: list[bool] | None = None
    ) -> Any:
        if not isinstance(image, Tensor) or output_type == "latent":
            return original(image, output_type, do_denormalize)
        starts = range(0, len(image), micro_batch)
        parts = [slice(start, start + micro_batch) for start in starts]
        return _joined(
            [
                original(image[part], output_type, do_denormalize and do_denormalize[part])
                for part in parts
            ]
        )

    processor.postprocess = postprocess
    try:
        yield
    finally:
        if shadowed is None:
            del processor.postprocess
        else:
            processor.postprocess = shadowed


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [picture for part in parts for picture in part]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts)

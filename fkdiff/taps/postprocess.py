"""The tail's last stage: decoded samples become pictures or frames a few rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from fkdiff.taps.shadowing import shadowed
from fkdiff.terms.memory import Batched

__all__ = ["sliced_postprocess"]


@contextmanager
def sliced_postprocess(pipe: Any, holder: Batched) -> Iterator[None]:
    """Let an image processor convert a micro-batch at a time while the block lasts.

    Converting takes several copies of all pictures at full resolution otherwise; each row is
    converted by itself, so that the result is the same.

    Arguments:
        pipe: A pipeline; one without an `image_processor` of the usual kind is left alone.
        holder: Says how many rows at a time, None for all; less where memory ran out.
    """
    processor: Any = getattr(pipe, "image_processor", None)
    stock = getattr(type(processor), "postprocess", None) is VaeImageProcessor.postprocess
    if not stock:
        yield
        return
    original = processor.postprocess

    def postprocess(
        image: Any, output_type: str = "pil", do_denormalize: list[bool] | None = None
    ) -> Any:
        size = holder.micro_batch
        if size is None or not isinstance(image, Tensor) or output_type == "latent":
            return original(image, output_type, do_denormalize)
        parts = [slice(start, start + size) for start in range(0, len(image), size)]
        return _joined(
            [
                original(image[part], output_type, do_denormalize and do_denormalize[part])
                for part in parts
            ]
        )

    with shadowed(processor, postprocess=postprocess):
        yield


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [picture for part in parts for picture in part]
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else torch.cat(parts)

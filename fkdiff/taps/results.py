"""What pipelines return: output classes of named fields, or a modular pipeline's whole state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fkdiff.processes.shards import Shards

__all__ = ["all_pictures", "cut_pictures", "fields", "first_field", "share_rows"]

# A modular pipeline's state also holds embeddings and timesteps, which are nobody's samples.
_SAMPLES = ("images", "videos", "frames", "audios", "latents")


def fields(output: Any) -> dict[str, Any]:
    """Samples by the name that the pipeline gives them."""
    if _is_state(output):
        return {k: output.values[k] for k in _SAMPLES if output.values.get(k) is not None}
    return dict(output)


def first_field(output: Any) -> Any:
    """The samples themselves, whatever they are called."""
    return next(iter(fields(output).values()))


def share_rows(output: Any, shards: Shards, rows: Tensor) -> None:
    """Keep some rows of the run of every field that has the rows here, in place.

    Arguments:
        output: What a pipeline returned, on each process its own rows.
        shards: Which they are.
        rows: Rows of the run to keep, in order.
    """
    for name, value in fields(output).items():
        if not isinstance(value, list | Tensor | np.ndarray) or len(value) != len(shards.rows):
            continue
        if shards.world == 1:
            places = rows.tolist()
            kept = [value[i] for i in places] if isinstance(value, list) else value[places]
        else:
            kept = _shared(value, shards, rows)
        if _is_state(output):
            output.values[name] = kept
        else:
            output[name] = kept


def _shared(value: Any, shards: Shards, rows: Tensor) -> Any:
    """Rows that other processes hold among them, in the type that they have here."""
    if isinstance(value, Tensor):
        found = shards.share(value, rows)
        assert found is not None
        return found.to(value)
    found = shards.share(torch.from_numpy(_array(value)), rows)
    assert found is not None
    return _like(found.numpy(), value)


def _array(value: Any) -> np.ndarray:
    """A sample, or a list of equally large ones, as numbers."""
    if isinstance(value, list):
        return np.stack([_array(item) for item in value])
    return np.array(value)


def _like(array: np.ndarray, value: Any) -> Any:
    """Numbers as pictures, or as whatever else they came from."""
    if isinstance(value, list):
        return [_like(item, value[0]) for item in array]
    if isinstance(value, Image.Image):
        return Image.fromarray(array, value.mode)
    if isinstance(value, Tensor):
        return torch.from_numpy(array).to(value)
    return array if isinstance(value, np.ndarray) else array.item()


def cut_pictures(output: Any, cut: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Give pictures alpha, in place and in the type that they have; latents stay.

    Arguments:
        output: What a pipeline returned.
        cut: Pictures (n, 3, h, w) in [0, 1] of rows (n,) to (n, 4, h, w).
    """
    images = fields(output).get("images")
    if images is None or not len(images):
        return
    pixels = _pixels(images)
    if pixels is None:
        return
    # One by one: what alpha needs beside a picture is larger than the picture.
    parts = [cut(x[None], torch.tensor([row]))[0] for row, x in enumerate(pixels)]
    whole = torch.stack(parts)
    if isinstance(images, list):
        values = (255 * whole + 0.5).movedim(1, -1).byte().cpu().numpy()
        made: Any = [Image.fromarray(value, "RGBA") for value in values]
    else:
        made = whole.to(images) if isinstance(images, Tensor) else whole.movedim(1, -1).numpy()
    if _is_state(output):
        output.values["images"] = made
    else:
        output["images"] = made


def all_pictures(output: Any, selected: Tensor | None) -> Tensor | None:
    """All particles as pixels (P, K, 3 | 4, h, w) in the slots' order; None for no pictures.

    Arguments:
        output: What a pipeline returned, every particle of it.
        selected: Slots in the order returned, (P, K).
    """
    images = fields(output).get("images")
    if isinstance(images, list):
        images = np.stack([np.asarray(image) for image in images]) / np.float32(255)
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images).movedim(-1, 1)
    if images is None or images.ndim != 4 or images.shape[1] not in (3, 4) or selected is None:
        return None
    images = images.reshape(*selected.shape, *images.shape[1:])
    return torch.stack([x[s.argsort()] for x, s in zip(images, selected, strict=True)])


def _pixels(images: Any) -> Tensor | None:
    """Pictures of any type as (n, 3, h, w) in [0, 1]; None for what isn't pictures."""
    if isinstance(images, list):
        if not all(isinstance(image, Image.Image) for image in images):
            return None
        arrays = np.stack([np.asarray(image.convert("RGB")) for image in images])
        return torch.from_numpy(arrays / np.float32(255)).movedim(-1, 1)
    if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[-1] == 3:
        return torch.from_numpy(images).movedim(-1, 1)
    if isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == 3:
        return images.float()
    return None


def _is_state(output: Any) -> bool:
    """Modular pipelines return `PipelineState(values=...)` unless one value is asked for."""
    return isinstance(getattr(output, "values", None), dict)

"""Networks' outputs: the prediction in them, and mixtures that look like them."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["blank", "mixture", "rewritten", "rows_of"]


def rows_of(out: Any) -> Tensor:
    """The prediction in a network's output, (B, *); some return a list of rows."""
    rows = out[0]
    return torch.stack(rows) if isinstance(rows, list) else rows


def mixture(parts: list[tuple[float, Any]], state: Any) -> Any:
    """An output like the first one, with the weighted sum of predictions and its own variances.

    One expert with weight 1 is handed over as it is.
    """
    template = parts[0][1]
    if len(parts) == 1 and parts[0][0] == 1:
        return template
    outputs = [(weight, rows_of(out)) for weight, out in parts]
    first = outputs[0][1]
    mixed = torch.stack([weight * out for weight, out in outputs]).sum(0)
    channels = len(state[0]) if isinstance(state, list) else state.shape[1]
    if first.ndim == 4 and first.shape[1] == 2 * channels:
        mixed = torch.cat([mixed[:, :channels], first[:, channels:]], 1)
    return rewritten(template, mixed)


def rewritten(template: Any, rows: Tensor) -> Any:
    """An output like another one, with other predictions, (B, *)."""
    sample: Any = list(rows) if isinstance(template[0], list) else rows
    if isinstance(template, dict):
        return type(template)(**{**template, next(iter(template)): sample})
    return (sample, *template[1:])


def blank(template: Any, batch: int) -> Any:
    """Zeros of so many rows in the form of a network's output."""
    if isinstance(template[0], list):
        return ([torch.zeros_like(template[0][0])] * batch,)
    zeros = template[0].new_zeros(batch, *template[0].shape[1:])
    return type(template)(sample=zeros) if isinstance(template, dict) else (zeros,)

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
    return _with_others(rewritten(template, mixed), parts)


def _with_others(made: Any, parts: list[tuple[float, Any]]) -> Any:
    """Mix what stands behind the first prediction too, such as that of a video's sound."""
    names = list(made) if isinstance(made, dict) else range(len(made))
    mixed = {
        name: torch.stack([weight * out[name] for weight, out in parts]).sum(0)
        for name in names[1:]
        if isinstance(made[name], Tensor) and made[name].is_floating_point()
    }
    if isinstance(made, dict):
        return type(made)(**{**made, **mixed})
    return tuple(mixed.get(name, made[name]) for name in names)


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
    if isinstance(template, dict):
        return type(template)(**{name: _zeros(value, batch) for name, value in template.items()})
    return tuple(_zeros(value, batch) for value in template)


def _zeros(value: Any, batch: int) -> Any:
    return value.new_zeros(batch, *value.shape[1:]) if isinstance(value, Tensor) else value

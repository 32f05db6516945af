"""What pipelines return: output classes of named fields, or a modular pipeline's whole state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["fields", "first_field", "keep_rows"]

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


def keep_rows(output: Any, total: int, rows: Sequence[int]) -> None:
    """Keep some of the `total` rows of every batch-leading field, in place."""
    for name, value in fields(output).items():
        if not isinstance(value, list | Tensor | np.ndarray) or len(value) != total:
            continue
        kept = [value[i] for i in rows] if isinstance(value, list) else value[rows]
        if _is_state(output):
            output.values[name] = kept
        else:
            output[name] = kept


def _is_state(output: Any) -> bool:
    """Modular pipelines return `PipelineState(values=...)` unless one value is asked for."""
    return isinstance(getattr(output, "values", None), dict)

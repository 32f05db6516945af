"""Rewards written as the Python that makes them."""

from dataclasses import fields
from typing import Any

import torch

__all__ = ["written"]


def written(reward: Any) -> str:
    """The call that makes a dataclass, with those settings that differ from their default.

    Example:
        >>> from fkdiff.rewards import JPEGSize
        >>> written(JPEGSize(quality=50))
        'JPEGSize(quality=50)'
    """
    told = []
    for setting in (f for f in fields(reward) if f.init):
        value = getattr(reward, setting.name)
        if value != setting.default:
            value = str(value) if isinstance(value, torch.device) else value
            told.append(f"{setting.name}={value!r}")
    return f"{type(reward).__name__}({', '.join(told)})"

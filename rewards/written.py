"""Rewards written as the Python that makes them, and the base of the plain ones."""

from dataclasses import fields
from typing import Any

import torch

from fkdiff.terms.reward_algebra import Composable, check_calibration

__all__ = ["Plain", "written"]


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


class Plain(Composable):
    """Base of frozen dataclasses with fields `mean` and `sd` and a name of their class."""

    def __post_init__(self) -> None:
        check_calibration(self.mean, self.sd)

    def __repr__(self) -> str:
        return written(self)

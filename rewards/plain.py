"""Bases of rewards without a network: plain functions, and another reward's pictures."""

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fkdiff.terms.reward import as_reward, load_reward
from fkdiff.terms.reward_algebra import Composable, check_calibration
from fkdiff.terms.reward_function import RewardError

__all__ = ["Measure", "OfPixels", "Plain", "call_text"]


def call_text(reward: Any) -> str:
    """Writes the call that makes a dataclass, with the settings that differ from their default.

    Example:
        >>> from fkdiff.rewards import JPEGSize
        >>> call_text(JPEGSize(quality=50))
        'JPEGSize(quality=50)'
    """
    stated = []
    for setting in (f for f in fields(reward) if f.init):
        value = getattr(reward, setting.name)
        if value != setting.default:
            value = str(value) if isinstance(value, torch.device) else value
            stated.append(f"{setting.name}={value!r}")
    return f"{type(reward).__name__}({', '.join(stated)})"


class Plain(Composable):
    """Base of frozen dataclasses whose values are a function of the samples alone."""

    mean = 0.0
    sd = 1.0
    differentiable = True
    pure = True

    def __post_init__(self) -> None:
        check_calibration(self.mean, self.sd)

    @abstractmethod
    def values(self, samples: Any) -> Tensor:
        """Values of n samples, shape (n,)."""

    def __call__(self, samples: Any, **context: Any) -> Tensor:
        """Values of n samples, shape (n,); no context is read."""
        return self.values(samples)

    def __repr__(self) -> str:
        return call_text(self)


@dataclass(frozen=True, repr=False)
class Measure(Plain):
    """Base of plain rewards without settings of their own.

    Arguments:
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.
    """

    mean: float = 0.0
    sd: float = 1.0


class OfPixels(Composable):
    """Base of frozen dataclasses with fields `reward`, `mean` and `sd`, None for the reward's."""

    reward: Any

    def __post_init__(self) -> None:
        """Find the reward, check that it reads pixels, and take constants that aren't stated.

        Raises:
            RewardError: If it doesn't.
        """
        reward = load_reward(self.reward) if isinstance(self.reward, str) else self.reward
        reward = as_reward(reward)
        if reward.inputs != "pixels":
            raise RewardError(
                f"{type(self).__name__} needs a reward of pixels, but {reward.name!r} reads "
                f"{reward.inputs}"
            )
        mean = reward.mean if self.mean is None else self.mean
        sd = reward.sd if self.sd is None else self.sd
        check_calibration(mean, sd)
        for name, value in {"reward": reward, "mean": mean, "sd": sd}.items():
            object.__setattr__(self, name, value)

    @property
    def differentiable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the images' reward is."""
        return self.reward.differentiable

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the images' reward."""
        return self.reward.weights

    def prepare(self) -> None:
        """Loads what the images' reward needs."""
        self.reward.prepare()

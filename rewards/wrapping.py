"""What rewards share that show another reward pictures: its weights, gradient and constants."""

from typing import Any

from fkdiff.terms.reward import as_reward, load_reward
from fkdiff.terms.reward_algebra import Composable, check_calibration
from fkdiff.terms.reward_function import RewardError

__all__ = ["OfPixels"]


class OfPixels(Composable):
    """Base of frozen dataclasses with fields `reward`, `mean` and `sd`, None for the reward's."""

    reward: Any

    def _load(self) -> None:
        """Find the reward and check that it reads pixels.

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
        object.__setattr__(self, "reward", reward)

    def _calibrate(self) -> None:
        """Take the reward's constants where none are stated."""
        mean = self.reward.mean if self.mean is None else self.mean
        sd = self.reward.sd if self.sd is None else self.sd
        check_calibration(mean, sd)
        for name, value in {"mean": mean, "sd": sd}.items():
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

"""Videos judged frame by frame, by any reward of images."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from fkdiff.rewards.plain import OfPixels
from fkdiff.terms.reward_algebra import values_of
from fkdiff.terms.reward_function import row_wise

__all__ = ["PerFrame"]

Over = Literal["mean", "worst"]


@dataclass(frozen=True, eq=False, repr=False)
class PerFrame(OfPixels):
    r"""Makes a reward of videos from a reward of images.

    $$ r(x) = \frac{1}{F} \sum_f r(x_f) \quad \text{or} \quad \min_f r(x_f) $$

    Differentiable where the images' reward is. The mean forgives one bad frame, the worst doesn't.
    Constants are those of the images' reward unless stated, which is right for the typical frame:
    the mean of many frames spreads less than one, and the worst lies lower.

    Arguments:
        reward: Reward of pixels, any callable on pixels, or the name of a reward.
        over: "mean" or "worst" frame.
        every: Frames looked at: 1 for all, 4 for the first of every four.
        mean: Stated mean, None for that of the images' reward.
        sd: Stated standard deviation, None for that of the images' reward.

    Raises:
        RewardError: If the reward doesn't read pixels.

    Example:
        >>> import torch
        >>> from fkdiff.rewards import Brightness
        >>> video = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])[None]
        >>> PerFrame(Brightness())(video), PerFrame(Brightness(), over="worst")(video)
        (tensor([0.5000]), tensor([0.]))
    """

    reward: Any
    over: Over = "mean"
    every: int = 1
    mean: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    sd: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    inputs = "video"
    pure = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over not in get_args(Over):
            raise ValueError(f"over must be 'mean' or 'worst', got {self.over!r}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name in reports."""
        return f"{self.over} frame of {self.reward.name}"

    def __call__(self, samples: Tensor, **context: Any) -> Tensor:
        """Values of videos (n, f, 3, h, w) in [0, 1], shape (n,); frames share a row's context."""
        n, frames = len(samples), samples[:, :: self.every]
        count = frames.shape[1]
        context = {
            key: _repeated(value, count) if row_wise(value, n) else value
            for key, value in context.items()
        }
        values = values_of(self.reward, frames.flatten(0, 1), context).reshape(n, count)
        return values.mean(dim=1) if self.over == "mean" else values.amin(dim=1)

    def __repr__(self) -> str:
        usual = {"over": "mean", "every": 1, "mean": self.reward.mean, "sd": self.reward.sd}
        stated = [f"{k}={getattr(self, k)!r}" for k, v in usual.items() if getattr(self, k) != v]
        return f"PerFrame({', '.join([repr(self.reward), *stated])})"


def _repeated(value: Any, count: int) -> Any:
    """Each entry `count` times in a row."""
    if isinstance(value, Tensor):
        return value.repeat_interleave(count, dim=0)
    return [entry for entry in value for _ in range(count)]

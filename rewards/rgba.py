"""Rewards of pictures with alpha: coverage, crisp edges, nothing cropped, a reward pasted over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.rewards.plain import Measure, OfPixels, Plain
from fkdiff.rgba.pasting import over
from fkdiff.rgba.tokens import without_background
from fkdiff.terms.reward_algebra import values_of

__all__ = ["Coverage", "EdgeSharpness", "OverBackgrounds", "Uncropped"]


@dataclass(frozen=True, repr=False)
class Coverage(Measure):
    r"""How much of a picture its subject covers: 0 nothing, 1 all.

    $$ r(x) = \mathrm{mean}_{pixels}\, \alpha $$

    Settings are those of `Measure`.

    Example:
        >>> Coverage()(torch.full((1, 4, 8, 8), 0.25))
        tensor([0.2500])
    """

    name = "alpha-coverage"
    inputs = "rgba"

    def values(self, samples: Tensor) -> Tensor:
        """Mean alpha of pictures (n, 4, h, w) in [0, 1], shape (n,)."""
        return samples[:, 3].mean(dim=(1, 2))


@dataclass(frozen=True, repr=False)
class EdgeSharpness(Measure):
    r"""How steep alpha is at its edges: 1 for a step within a pixel, 1/n for a ramp of n pixels.

    $$ r(x) = \sum |\nabla \alpha|^2 \Big/ \sum |\nabla \alpha| $$

    Settings are those of `Measure`.

    Example:
        >>> ramp = torch.tensor([0, 0, 0.25, 0.5, 0.75, 1, 1]).expand(1, 4, 7, 7)
        >>> EdgeSharpness()(ramp)
        tensor([0.2500])
    """

    name = "edge-sharpness"
    inputs = "rgba"

    def values(self, samples: Tensor) -> Tensor:
        """Sharpness of pictures (n, 4, h, w) in [0, 1], shape (n,); 0 where there is no edge."""
        share = samples[:, 3]
        slopes = [share.diff(dim=axis).abs().flatten(1) for axis in (1, 2)]
        steep = torch.cat(slopes, dim=1)
        return steep.square().sum(1) / steep.sum(1).clamp(min=1e-6)


@dataclass(frozen=True, repr=False)
class Uncropped(Plain):
    r"""Whether the subject keeps away from the frame: 1 whole, 0 cut off.

    $$ r(x) = 1 - \max_{frame} \alpha $$

    Arguments:
        border: Width of the frame, pixels.
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.

    Example:
        >>> whole = torch.zeros(1, 4, 8, 8)
        >>> whole[..., 3:5, 3:5] = 1
        >>> Uncropped()(whole), Uncropped(border=4)(whole)
        (tensor([1.]), tensor([0.]))
    """

    border: int = 1
    mean: float = 0.0
    sd: float = 1.0

    name = "uncropped"
    inputs = "rgba"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.border < 1:
            raise ValueError(f"border must be at least 1 pixel, got {self.border}")

    def values(self, samples: Tensor) -> Tensor:
        """Wholeness of pictures (n, 4, h, w) in [0, 1], shape (n,)."""
        share, b = samples[:, 3], self.border
        sides = (share[:, :b], share[:, -b:], share[:, :, :b], share[:, :, -b:])
        return 1 - torch.stack([side.amax(dim=(1, 2)) for side in sides]).amax(dim=0)


@dataclass(frozen=True, eq=False, repr=False)
class OverBackgrounds(OfPixels):
    r"""Makes a reward of cut-outs from a reward of images: pasted over plain random colours.

    $$ r(x) = \frac{1}{B} \sum_b r(\alpha F + (1 - \alpha) c_b) $$

    The colours are drawn once, from a seed, and the same for all pictures. What prompts say of a
    background is left out before the reward reads them.

    Arguments:
        reward: Reward of pixels, any callable on pixels, or the name of a reward.
        count: Backgrounds, B.
        seed: Of their colours.
        mean: Stated mean, None for that of the images' reward.
        sd: Stated standard deviation, None for that of the images' reward.

    Raises:
        RewardError: If the reward doesn't read pixels.

    Example:
        >>> from fkdiff.rewards import Brightness
        >>> black = torch.cat([torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)], 1)
        >>> OverBackgrounds(Brightness())(black)
        tensor([0.])
    """

    reward: Any
    count: int = 3
    seed: int = 0
    mean: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    sd: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    inputs = "rgba"
    pure = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name in reports."""
        return f"{self.reward.name} over backgrounds"

    def __call__(
        self, samples: Tensor, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Values of pictures (n, 4, h, w) in [0, 1], shape (n,)."""
        generator = torch.Generator().manual_seed(self.seed)
        colours = torch.rand(self.count, 3, 1, 1, generator=generator).to(samples)
        if prompts is not None:
            context["prompts"] = [without_background(prompt) for prompt in prompts]
        values = [values_of(self.reward, over(samples, colour), context) for colour in colours]
        return torch.stack([torch.as_tensor(value) for value in values]).mean(0)

    def __repr__(self) -> str:
        return f"OverBackgrounds({self.reward!r}, count={self.count}, seed={self.seed})"

"""Rewards of pixels alone: brightness, colourfulness, size as JPEG.

Cheap and exactly known, they show what steering does before a model judges anything.
"""

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.rewards.plain import Measure, Plain
from fkdiff.terms.reward_function import pil_images

__all__ = ["Brightness", "Colourfulness", "JPEGSize"]


@dataclass(frozen=True, repr=False)
class Brightness(Measure):
    r"""Mean luma of an image: 0 for black, 1 for white.

    $$ r(x) = \mathrm{mean}_{pixels}(0.299\, R + 0.587\, G + 0.114\, B) $$

    Settings are those of `Measure`.

    References:
        | Studio encoding parameters of digital television (Recommendation ITU-R BT.601)
        | https://www.itu.int/rec/R-REC-BT.601

    Example:
        >>> Brightness()(torch.full((2, 3, 8, 8), 0.25))
        tensor([0.2500, 0.2500])
    """

    name = "brightness"
    inputs = "pixels"

    def values(self, samples: Tensor) -> Tensor:
        """Mean luma of images (n, 3, h, w) in [0, 1], shape (n,)."""
        luma = samples.new_tensor([0.299, 0.587, 0.114])
        return samples.mean(dim=(2, 3)) @ luma


@dataclass(frozen=True, repr=False)
class Colourfulness(Measure):
    r"""How colourful an image looks: 0 for grey, 15 slightly, 59 quite, 109 extremely.

    On channels in [0, 255], with opponents $a = R - G$ and $b = (R + G) / 2 - B$,

    $$ r(x) = \sqrt{\sigma_a^2 + \sigma_b^2} + 0.3 \sqrt{\mu_a^2 + \mu_b^2} $$

    Settings are those of `Measure`.

    References:
        | Measuring colourfulness in natural images (Hasler & Suesstrunk, 2003)
        | https://doi.org/10.1117/12.477378

    Example:
        >>> Colourfulness()(torch.full((1, 3, 8, 8), 0.5))
        tensor([0.])
    """

    name = "colourfulness"
    inputs = "pixels"

    def values(self, samples: Tensor) -> Tensor:
        """Colourfulness of images (n, 3, h, w) in [0, 1], shape (n,)."""
        red, green, blue = (255 * samples).flatten(2).unbind(dim=1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)  # (n, 2, h w)
        centre = opponents.mean(dim=2, keepdim=True)
        # One norm instead of two standard deviations: its gradient at grey is 0 rather than NaN.
        spread = torch.linalg.vector_norm(opponents - centre, dim=(1, 2))
        spread = spread / opponents.shape[2] ** 0.5
        return spread + 0.3 * torch.linalg.vector_norm(centre, dim=(1, 2))


@dataclass(frozen=True, repr=False)
class JPEGSize(Plain):
    """Size of an image as JPEG, in kilobytes of 1,000 bytes; `-JPEGSize()` is compressibility.

    Grows with detail and noise. Not differentiable: the image is encoded by Pillow.

    Arguments:
        quality: JPEG quality, from 1 to 95.
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.

    References:
        | Training diffusion models with reinforcement learning (Black et al., 2023)
        | https://arxiv.org/abs/2305.13301

    Example:
        >>> flat, noisy = torch.full((3, 32, 32), 0.5), torch.rand(3, 32, 32)
        >>> sizes = JPEGSize()(torch.stack([flat, noisy]))
        >>> bool(sizes[0] < sizes[1])
        True
    """

    quality: int = 75
    mean: float = 0.0
    sd: float = 1.0

    name = "jpeg-size"
    inputs = "pixels"
    differentiable = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be from 1 to 95, got {self.quality}; 75 is usual")

    def values(self, samples: Tensor) -> Tensor:
        """Kilobytes of each of the images (n, 3, h, w) in [0, 1], shape (n,)."""
        return torch.tensor([self._kilobytes(image) for image in pil_images(samples)])

    def _kilobytes(self, image: Any) -> float:
        with io.BytesIO() as file:
            image.save(file, format="JPEG", quality=self.quality)
            return file.tell() / 1000

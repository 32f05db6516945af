r"""Two prompts in one picture: the subject's inside a mask, a background's outside it.

$$\hat\epsilon = M \odot \hat\epsilon_{\mathrm{subject}}
+ (1 - M) \odot \hat\epsilon_{\mathrm{background}}$$

mixes what the network predicts for one shared state. Steps of deterministic solvers are affine in
the prediction, so that it equals the published mixing of latents after each step
($z = M \odot z_{\mathrm{subject}} + (1 - M) \odot z_{\mathrm{background}}$).

References:
    | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fkdiff.terms.term import Weightless

__all__ = ["Mask", "Regions", "regions_of"]


@dataclass(frozen=True)
class Mask:
    """Where the subject may be: a box of any place and size, hard or feathered.

    Arguments:
        box: Left, top, right and bottom, shares of the picture's width and height. The default
            leaves an eighth on each side, as published.
        feather: Width over which the mask fades inside its box, a share of the picture's shorter
            side; 0 is hard.

    Raises:
        ValueError: If the box isn't inside the picture, or the feather is negative.

    Example:
        >>> Mask((0.25, 0, 1, 1)).weights(2, 4)
        tensor([[0., 1., 1., 1.],
                [0., 1., 1., 1.]])
    """

    box: tuple[float, float, float, float] = (0.125, 0.125, 0.875, 0.875)
    feather: float = 0.0

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"box must lie inside the image, 0 <= left < right <= 1 and 0 <= top < bottom "
                f"<= 1, got {self.box}"
            )
        if not 0 <= self.feather <= 0.5:
            raise ValueError(f"feather must be in [0, 0.5], got {self.feather}; 0 is hard")

    def weights(self, height: int, width: int) -> Tensor:
        """M on a grid of cells, (height, width) in [0, 1]; a cell counts where its centre is.

        Raises:
            ValueError: If no cell of the grid is inside.
        """
        left, top, right, bottom = self.box
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (height, width))
        shorter = min(height, width)
        depth = torch.minimum(
            torch.minimum(x - left, right - x)[None] * width / shorter,
            torch.minimum(y - top, bottom - y)[:, None] * height / shorter,
        )
        if not (depth > 0).any():
            raise ValueError(
                f"box must hold a cell of the {height}x{width} latent grid, got {self.box}; "
                f"make it larger"
            )
        if self.feather == 0:
            return (depth > 0).float()
        return (depth / self.feather).clamp(0, 1).float()


@dataclass(frozen=True)
class Regions(Weightless):
    """A background prompt outside a mask, the call's own prompt inside.

    Costs one more evaluation a step: the unconditional branch is the same for both prompts, and
    evaluated once.

    Arguments:
        background: Prompt outside the mask.
        mask: Where the subject may be; None puts it anywhere, and only records attention.

    Raises:
        ValueError: If the background prompt is empty.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        >>> Regions("a white background").target
        'heuristic: a subject inside a mask, another prompt outside'
    """

    background: str = "a white background"
    mask: Mask | None = Mask()
    recording: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.background.strip():
            raise ValueError("background must be a prompt, got an empty one; 'a white background'")

    @property
    def needs(self) -> frozenset[str]:
        """A second prompt and its predictions."""
        return frozenset({"pipeline", "scores"})

    @property
    def target(self) -> str:
        """No law is known."""
        return "heuristic: a subject inside a mask, another prompt outside"


def regions_of(terms: Sequence[object]) -> Regions | None:
    """The two prompts among the terms."""
    return next((term for term in terms if isinstance(term, Regions)), None)

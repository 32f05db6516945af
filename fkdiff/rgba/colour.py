r"""The subject's own colour at its edges, so that no background bleeds into where it is pasted.

A picture is $C = \alpha F + (1 - \alpha) B$. With the background B known,
$F = (C - (1 - \alpha) B) / \alpha$; as alpha goes to 0 that divides noise by nothing, and the
colour of the subject nearby, $F_0$, takes over:

$$F = F_0 + \frac{\alpha (C - \alpha F_0 - (1 - \alpha) B)}{\alpha^2 + \epsilon^2}$$
"""

import torch
from torch import Tensor

from fkdiff.rgba.ground import fit_ground, local_mean, spread_behind

__all__ = ["foreground_colour"]

_DOUBT = 0.1  # epsilon: noise of the picture over the spread of colours nearby


def foreground_colour(image: Tensor, alpha: Tensor, ground: Tensor | None = None) -> Tensor:
    r"""Colour F of the subject, (3, h, w) in [0, 1], straight: not multiplied by alpha.

    Arguments:
        image: C, (3, h, w) in [0, 1].
        alpha: (h, w) in [0, 1].
        ground: B, (3,) or (3, h, w) in [0, 1]; estimated from where alpha is 0 if left out.

    Raises:
        ValueError: If shapes don't fit.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826, whose
        | colour stays the picture's

    Example:
        >>> red, white = torch.tensor([1.0, 0, 0])[:, None, None], torch.ones(3, 1, 1)
        >>> alpha = torch.linspace(0, 1, 8).expand(8, 8)
        >>> mixed = alpha * red + (1 - alpha) * white
        >>> found = foreground_colour(mixed, alpha, torch.ones(3))
        >>> torch.allclose(found, red.expand(3, 8, 8), atol=1e-4)
        True
    """
    if image.ndim != 3 or len(image) != 3 or alpha.shape != image.shape[1:]:
        raise ValueError(
            f"alpha must be (h, w) of an image (3, h, w), got {tuple(alpha.shape)} for "
            f"{tuple(image.shape)}"
        )
    reach = max(1, round(max(image.shape[1:]) / 128))
    outside = alpha <= 0.5 / 255
    if ground is None:
        smooth = fit_ground(image, outside.to(image) + 1e-6)
        behind = spread_behind(image, smooth, outside, reach)
    else:
        behind = ground.to(image).reshape(3, *(ground.shape[1:] or (1, 1))).expand(image.shape)
    scales = tuple(reach * scale for scale in (1.0, 2.0, 4.0, 8.0, 16.0))
    sure = alpha > 0.5 * alpha.max()
    own = behind + (image - behind) / alpha.clamp(min=0.1)
    near = local_mean(own, alpha**8 * sure, scales)
    missed = image - alpha * near - (1 - alpha) * behind
    solved = near + alpha * missed / (alpha.square() + _DOUBT**2)
    return torch.where(alpha >= 1, image, solved).clamp(0, 1)

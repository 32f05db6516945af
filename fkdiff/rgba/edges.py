r"""Soft edges by the closed form between two known colours.

In a band around the segment's border a pixel mixes the subject's colour F nearby and the
background B behind it. With noise sd $\sigma$ and a blurred segment s that errs by $\tau$,

$$\alpha = \frac{(C - B) \cdot (F - B) / \sigma^2 + s / \tau^2}
{|F - B|^2 / \sigma^2 + 1 / \tau^2}$$

is the most probable alpha: the projection onto the line from B to F where the two differ, the
blurred segment where they don't.
"""

import torch
from torch import Tensor

from fkdiff.rgba.ground import blurred, local_mean
from fkdiff.rgba.segmentation import Segment, grown

__all__ = ["soft_edges", "spread_behind"]

_DOUBT = 0.25  # tau


def soft_edges(image: Tensor, found: Segment, edge: int | None = None) -> Tensor:
    """Alpha, (h, w) in [0, 1]: a segment's, with soft edges.

    Arguments:
        image: (3, h, w) in [0, 1].
        found: The segment.
        edge: How far edges reach to either side, pixels; None for 1/128 of the longer side.
    """
    reach = max(1, round(max(image.shape[1:]) / 128)) if edge is None else edge
    inside, outside = ~grown(~found.subject, reach), ~grown(found.subject, reach)
    scales = tuple(reach * scale for scale in (0.6, 1.2, 2.4, 5.0, 10.0))
    colour = local_mean(image, inside.to(image), scales)
    behind = spread_behind(image, found.ground, outside, reach)
    error = (image - behind).square().sum(0)[None]
    noise = local_mean(error, outside.to(image), (3.0 * reach, 12.0 * reach))[0] + (4 / 255) ** 2
    blur = blurred(found.subject.to(image)[None], 0.7 * reach)[0]
    line = colour - behind
    along = ((image - behind) * line).sum(0) / noise + blur / _DOUBT**2
    share = along / (line.square().sum(0) / noise + 1 / _DOUBT**2)
    return torch.where(inside | outside, found.subject.to(image), share.clamp(0, 1))


def spread_behind(image: Tensor, ground: Tensor, outside: Tensor, reach: int) -> Tensor:
    """The background behind every pixel, (3, h, w): smooth, and as it is close by.

    Arguments:
        image: (3, h, w).
        ground: The smooth background, (3, h, w).
        outside: Where nothing else shows, (h, w), bool.
        reach: Width of an edge, pixels.
    """
    if not outside.any():
        return ground
    return ground + local_mean(image - ground, outside.to(image), (1.5 * reach, 4.0 * reach))

"""Alpha from a picture and a coarse prior of where its subject is; and the picture cut out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fkdiff.rgba.colour import foreground_colour
from fkdiff.rgba.ground import blurred, local_mean, spread_behind
from fkdiff.rgba.matting import (
    VITMATTE,
    by_callable,
    grab_cut,
    pymatting_alpha,
    trimap_of,
    vit_matte,
)
from fkdiff.rgba.segmentation import Segment, grown, segment

__all__ = ["METHODS", "Method", "Thresholds", "alpha", "cut_out", "unit_range"]

METHODS = ("default", "alfie", "grabcut", "closed-form", "knn", "vitmatte")
_DOUBT = 0.25  # tau of `soft_edges`
Method: TypeAlias = str | Callable[..., Any]


@dataclass(frozen=True)
class Thresholds:
    """Levels of trust, as shares of the prior's largest value.

    Arguments:
        sure: Above it, subject.
        likely: Above it, probably subject (GrabCut alone).
        unlikely: Up to it, background.

    Raises:
        ValueError: If they are out of order.
    """

    sure: float = 0.8
    likely: float = 0.3
    unlikely: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.unlikely < self.likely < self.sure < 1:
            raise ValueError(
                f"thresholds must be in order, 0 <= unlikely < likely < sure < 1, got unlikely "
                f"{self.unlikely}, likely {self.likely}, sure {self.sure}"
            )


def alpha(
    image: Tensor,
    prior: Tensor,
    method: Method = "default",
    thresholds: Thresholds | None = None,
    ground: Tensor | None = None,
    edge: int | None = None,
) -> Tensor:
    """How much of each pixel is subject, (h, w) in [0, 1].

    Arguments:
        image: (3, h, w) in [0, 1].
        prior: Rough map of the subject, any size (h', w'), higher where it is; finite.
        method: "default" needs nothing else: colours of both sides, then edges in closed form.
            "grabcut", "closed-form", "knn" and "vitmatte" (or "vitmatte:FOLDER") start from a
            trimap of the prior; "alfie" is the published formula. Or any function of a PIL image
            that returns one with alpha, an array or a tensor, such as rembg's `remove`.
        thresholds: Where the trimap's known parts are.
        ground: The background, (3,) or (3, h, w) in [0, 1], if it is known; for "default".
        edge: How far soft edges reach to either side, pixels; None for 1/128 of the longer side,
            at least 1; for "default" and "grabcut".

    Raises:
        ValueError: If an argument is out of range, or the prior is the same everywhere.
        ImportError: If the method's package isn't installed, with the pip command.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        >>> picture = torch.ones(3, 16, 16)
        >>> picture[:, 4:12, 4:12] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
        >>> rough = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0.0]])
        >>> alpha(picture, rough).sum().round()
        tensor(64.)
    """
    _check(image, method)
    if edge is not None and edge < 1:
        raise ValueError(f"edge must be at least 1 pixel, got {edge}")
    image = image.float().clamp(0, 1)
    if callable(method):
        return by_callable(image, method)
    trust = _enlarged(prior, image)
    levels = thresholds or Thresholds()
    if method == "default":
        behind = None if ground is None else _whole_ground(ground, image)
        return soft_edges(image, segment(image, trust, behind), edge)
    if method in ("alfie", "grabcut"):
        inside = grab_cut(image, trust, (levels.sure, levels.likely, levels.unlikely))
        if method == "alfie":
            return inside * (1.5 * trust).clamp(0, 1)
        return soft_edges(image, Segment(inside, segment(image, trust).ground), edge)
    trimap = trimap_of(trust, levels.sure, levels.unlikely)
    if method.startswith("vitmatte"):
        return vit_matte(image, trimap, method.partition(":")[2] or VITMATTE)
    return pymatting_alpha(image, trimap, method).clamp(0, 1)


def cut_out(
    image: Tensor,
    prior: Tensor,
    method: Method = "default",
    thresholds: Thresholds | None = None,
    ground: Tensor | None = None,
    edge: int | None = None,
) -> Tensor:
    """A picture's subject, RGBA (4, h, w) in [0, 1], its own colour in place of any fringe.

    Arguments are those of `alpha`.
    """
    share = alpha(image, prior, method, thresholds, ground, edge)
    colour = foreground_colour(image.float().clamp(0, 1), share, ground)
    return torch.cat([colour, share[None]])


def soft_edges(image: Tensor, found: Segment, edge: int | None = None) -> Tensor:
    r"""Alpha, (h, w) in [0, 1]: a segment's, with soft edges in closed form.

    In a band around the segment's border a pixel mixes the subject's colour F nearby and the
    background B behind it. With noise sd $\sigma$ and a blurred segment s that errs by $\tau$,

    $$\alpha = \frac{(C - B) \cdot (F - B) / \sigma^2 + s / \tau^2}
    {|F - B|^2 / \sigma^2 + 1 / \tau^2}$$

    is the most probable alpha: the projection onto the line from B to F where the two differ, the
    blurred segment where they don't.

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


def unit_range(x: Tensor) -> Tensor:
    """Values stretched to [0, 1]; zeros where all are the same.

    >>> unit_range(torch.tensor([2.0, 3.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    low, high = x.amin(), x.amax()
    return (x - low) / (high - low) if high > low else torch.zeros_like(x)


def _check(image: Tensor, method: Method) -> None:
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"image must be (3, h, w) in [0, 1], got shape {tuple(image.shape)}")
    known = callable(method) or method in METHODS or method.startswith("vitmatte:")
    if not known:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)} or a function, got {method!r}"
        )


def _enlarged(prior: Tensor, image: Tensor) -> Tensor:
    """The prior on the picture's grid, (h, w), stretched to [0, 1]."""
    if prior.ndim != 2 or not bool(prior.isfinite().all()):
        raise ValueError(f"prior must be (h, w) and finite, got shape {tuple(prior.shape)}")
    rough = unit_range(prior.to(image))
    if not rough.any():
        raise ValueError("prior must tell subject from background, got the same value everywhere")
    size = image.shape[1:]
    wide = F.interpolate(rough[None, None], tuple(size), mode="bicubic", align_corners=False)
    return unit_range(wide[0, 0].clamp(0, 1))


def _whole_ground(ground: Tensor, image: Tensor) -> Tensor:
    wide = ground.to(image)
    return (wide[:, None, None] if wide.ndim == 1 else wide).expand(image.shape)

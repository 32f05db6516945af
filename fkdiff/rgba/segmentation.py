r"""Which pixels are subject: two models of colour, a prior, and neighbours that agree.

$$\mathrm{logit}\, q_i = \log \frac{p_F(c_i)}{p_B(c_i - b_i)} + \kappa\, \mathrm{logit}\, \pi_i
+ \beta \sum_j w_{ij} (2 q_j - 1)$$

with $p_F, p_B$ mixtures fitted to the picture itself in turn with q (expectation maximisation),
b a smooth background, $\pi$ the prior and $w$ larger between pixels of like colour.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fkdiff.rgba.ground import fit_ground

__all__ = ["Segment", "grown", "segment"]

_WORKING = 256
"""Longest side at which pixels are classified; edges are made at full size."""
_ROUNDS, _AGREE = 6, 6
_REACH = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3) if (y, x) != (0, 0))


@dataclass(frozen=True)
class Segment:
    """Where the subject is, (h, w), bool, and the smooth background, (3, h, w)."""

    subject: Tensor
    ground: Tensor


def segment(image: Tensor, prior: Tensor, ground: Tensor | None = None) -> Segment:
    """Tells subject from background in a picture (3, h, w) in [0, 1].

    `prior` (h, w) in [0, 1] is the trust that a pixel is subject, its largest value near 1;
    `ground` is the background (3, h, w), if it is known.
    """
    full = image.shape[1:]
    scale = min(1.0, _WORKING / max(full))
    size = [max(1, round(side * scale)) for side in full]
    small, trust = _resized(image, size), _resized(prior[None], size)[0].clamp(0.02, 0.98)
    behind = None if ground is None else _resized(ground, size)
    share, behind = _shares(small, trust, behind)
    subject = _whole(share > 0.5, trust, small - behind)
    if scale < 1:
        subject = _resized(subject.to(image)[None], full)[0] > 0.5
        behind = _resized(behind, full)
    return Segment(subject, behind if ground is None else ground)


def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask (h, w), bool, that reaches so many pixels further."""
    side = 2 * pixels + 1
    return F.max_pool2d(mask[None, None].float(), side, 1, pixels)[0, 0] > 0


def _resized(x: Tensor, size: list[int] | torch.Size) -> Tensor:
    if tuple(x.shape[1:]) == tuple(size):
        return x
    smaller = size[0] < x.shape[1]
    return F.interpolate(x[None], tuple(size), mode="bilinear", antialias=smaller)[0]


def _shares(image: Tensor, prior: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probability of being subject, (h, w), and the background, (3, h, w)."""
    colours, trust = image.reshape(3, -1).T, prior.reshape(-1)
    fixed = known is not None
    ground = known if fixed else fit_ground(image, (1 - prior) ** 3 + 1e-4)
    subject, behind = _grouped(colours, trust**2 + 1e-5, min(5, len(colours))), None
    # The prior is coarse: it must not outvote colours that are plainly of one side.
    tilt = 1.5 * torch.logit(trust).clamp(-3, 3)
    likeness, share = _likeness(image), trust
    for _ in range(_ROUNDS):
        away = (image - ground).reshape(3, -1).T
        if behind is None:
            behind = _grouped(away, (1 - share) ** 3 + 1e-6, min(2, len(away)))
        inside = _Mixture.fitted(colours, share + 1e-4, subject, floor=0.03).log_parts(colours)
        outside = _Mixture.fitted(away, 1 - share, behind, floor=3 / 255).log_parts(away)
        subject, behind = inside.softmax(0), outside.softmax(0)
        evidence = _or_anything(inside, 0.2) - _or_anything(outside, 1e-3)
        share = _agreed((evidence.clamp(-8, 8) + tilt).reshape(prior.shape), likeness).reshape(-1)
        if not fixed:
            weight = ((1 - share) * (1 - trust).sqrt()).square() + 1e-4
            ground = fit_ground(image, weight.reshape(prior.shape), rounds=4)
    assert ground is not None
    return share.reshape(prior.shape), ground


def _or_anything(parts: Tensor, chance: float) -> Tensor:
    """Log-density of a mixture with some chance of a colour that it never saw, (n,)."""
    known = parts.logsumexp(0) + math.log1p(-chance)
    return torch.logaddexp(known, torch.full_like(known, math.log(chance)))


def _likeness(image: Tensor) -> Tensor:
    """How much neighbours of each pixel weigh, (24, h, w)."""
    apart = torch.stack([(near - image).square().sum(0) for near in _shifted(image, "replicate")])
    reach = torch.tensor([1 / math.hypot(*offset) for offset in _REACH]).to(image)
    return torch.exp(-apart / (apart.mean() + 1e-5)) * reach[:, None, None]


def _shifted(x: Tensor, mode: str) -> list[Tensor]:
    height, width = x.shape[1:]
    padded = F.pad(x[None], (2, 2, 2, 2), mode)[0]
    return [padded[:, 2 + y : 2 + y + height, 2 + a : 2 + a + width] for y, a in _REACH]


def _agreed(evidence: Tensor, likeness: Tensor, strength: float = 0.3) -> Tensor:
    """Mean field: probabilities (h, w) that follow the evidence and their like neighbours."""
    share = torch.sigmoid(evidence)
    for _ in range(_AGREE):
        near = torch.cat(_shifted((2 * share - 1)[None], "constant"))
        share = torch.sigmoid(evidence + strength * (likeness * near).sum(0))
    return share


def _whole(subject: Tensor, prior: Tensor, away: Tensor) -> Tensor:
    """Without specks that the prior knows nothing of, and without holes that it doesn't.

    A hole is real where the prior is low, or fair and the colour the background's own.
    """
    frame = torch.zeros_like(subject)
    frame[0], frame[-1], frame[:, 0], frame[:, -1] = True, True, True, True
    outside = _reached(frame | (prior < 0.35), ~subject)
    spread = away[:, outside].square().sum(0).quantile(0.8) if outside.any() else 0.0
    like = away.square().sum(0) <= max(float(spread), (4 / 255) ** 2)
    core = ~grown(subject | ~like, 1) & (prior < 0.75)
    outside = outside | _reached(core, ~subject)
    return _reached(prior > 0.6 * float(prior.max()), ~outside)


def _reached(seeds: Tensor, mask: Tensor) -> Tensor:
    """The connected parts of a mask that hold a seed."""
    now = seeds & mask
    while True:
        after = grown(now, 1) & mask
        if bool((after == now).all()):
            return now
        now = after


@dataclass(frozen=True)
class _Mixture:
    """A density of colours: K Gaussians, with means (K, 3) and Cholesky factors (K, 3, 3)."""

    means: Tensor
    factors: Tensor
    log_shares: Tensor

    @classmethod
    def fitted(cls, x: Tensor, weight: Tensor, members: Tensor, floor: float) -> "_Mixture":
        """Fits it to colours x (n, 3) with weights (n,), of which members (K, n) belong to each.

        `floor` is the least standard deviation.
        """
        mass = members * weight
        total = mass.sum(1) + 1e-6
        means = mass @ x / total[:, None]
        away = x - means[:, None]
        spread = torch.einsum("kn,kni,knj->kij", mass, away, away) / total[:, None, None]
        factors = torch.linalg.cholesky(spread + floor**2 * torch.eye(3).to(x))
        return cls(means, factors, (total / total.sum()).log())

    def log_parts(self, x: Tensor) -> Tensor:
        """Log-density of each Gaussian times its share at colours (n, 3), shape (K, n)."""
        away = (x - self.means[:, None]).transpose(1, 2)
        scaled = torch.linalg.solve_triangular(self.factors, away, upper=False)
        volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.log_shares - volume - 1.5 * math.log(2 * math.pi)
        return constant[:, None] - scaled.square().sum(1) / 2


def _grouped(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """Colours (n, 3) in so many groups by k-means, as members (count, n) of 0 and 1.

    Starts are drawn far from each other from a stream of their own: the same colours, the same
    groups.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [int(torch.multinomial(weight.cpu(), 1, generator=generator))]
    for _ in range(count - 1):
        far = torch.cdist(x, x[drawn]).min(1).values.square() * weight + 1e-12
        drawn.append(int(torch.multinomial(far.cpu(), 1, generator=generator)))
    centres, members = x[drawn], torch.zeros(count, len(x)).to(x)
    for _ in range(8):
        nearest = torch.cdist(x, centres).argmin(1)
        members = F.one_hot(nearest, count).T.to(x)
        mass = members * weight
        total = mass.sum(1, keepdim=True)
        centres = torch.where(total > 1e-6, mass @ x / total.clamp(min=1e-6), centres)
    return members

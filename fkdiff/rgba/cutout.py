"""The term that makes any pipeline with text attention draw cut-outs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from fkdiff.rgba.mattes import Method, Thresholds, cut_out, unit_range
from fkdiff.rgba.tokens import subject_tokens
from fkdiff.terms.clock import check_interval
from fkdiff.terms.pool import label
from fkdiff.terms.regions import Mask, Regions

__all__ = ["Cutout", "attention_flow", "attention_prior"]


@dataclass(frozen=True)
class Cutout(Regions):
    r"""Draw a subject whole, on a background of its own, and cut it out: RGBA pictures.

    Inside the mask the call's prompt moves the state, outside it the background's, so that no
    subject touches the border. Attention maps give a prior, the prior and the picture's colours
    alpha, alpha and the background the subject's own colour at its edges. The law is a heuristic.
    `steer(pipe, Cutout())(prompt)` returns pictures with alpha in the type that was asked for,
    and rewards of `inputs="rgba"` read them on the way.

    Arguments:
        background: Prompt outside the mask; a plain colour that the subject doesn't have is best.
        mask: Where the subject may be; None puts it anywhere.
        subject: Words of the prompt whose attention counts, None for those with content.
        method: How alpha is found, see `fkdiff.rgba.alpha`.
        thresholds: Of trimaps.
        window: Shares of the run between which attention is recorded, first < progress <= last.
        layers: Parts of names of the attention layers to read; None reads all.
        edge: How far soft edges reach to either side, pixels; None for 1/128 of the longer side,
            at least 2, as decoders blur.
        cells: Layers with more cells tell no self-attention, which costs their square.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        >>> Cutout(mask=Mask((0, 0, 1, 0.5), feather=0.1)).background
        'a white background'
    """

    subject: str | None = None
    method: Method = "default"
    thresholds: Thresholds = Thresholds()
    window: tuple[float, float] = (0.2, 1.0)
    layers: tuple[str, ...] | None = None
    edge: int | None = None
    cells: int = 1024
    recording: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("window", self.window)
        if self.edge is not None and self.edge < 1:
            raise ValueError(f"edge must be at least 1 pixel, got {self.edge}")
        if self.cells < 1:
            raise ValueError(f"cells must be at least 1, got {self.cells}; 1024 is a 32x32 grid")

    def __repr__(self) -> str:
        stated = {f.name: getattr(self, f.name) for f in fields(self)}
        stated = {f.name: stated[f.name] for f in fields(self) if stated[f.name] != f.default}
        parts = [f"{k}={label(v) if callable(v) else repr(v)}" for k, v in stated.items()]
        return f"Cutout({', '.join(parts)})"

    @property
    def target(self) -> str:
        """No law is known."""
        return super().target if self.mask is not None else "law of the chain that is run"

    def tokens(self, pipe: Any, prompt: str, call: Mapping[str, Any]) -> list[int]:
        """Places of the subject's tokens, see `subject_tokens`."""
        return subject_tokens(pipe, prompt, self.subject, call)

    def matte(self, pixels: Tensor, maps: tuple[Tensor, Tensor | None] | None) -> Tensor:
        """Pictures (n, 3, h, w) in [0, 1] cut out, (n, 4, h, w).

        Arguments:
            pixels: Pictures, straight from the decoder.
            maps: Cross-attention (n, h', w') and self-attention; None where none was recorded
                yet, and the mask itself has to say where the subject is.
        """
        usual = max(2, round(max(pixels.shape[2:]) / 128))
        edge = usual if self.edge is None else self.edge
        cut = []
        for row, picture in enumerate(pixels.float()):
            prior = self._prior(maps, row, picture)
            cut.append(cut_out(picture, prior, self.method, self.thresholds, edge=edge))
        return torch.stack(cut)

    def _prior(
        self, maps: tuple[Tensor, Tensor | None] | None, row: int, picture: Tensor
    ) -> Tensor:
        mask = self.mask or Mask()
        if maps is None:
            return mask.weights(*picture.shape[1:]).to(picture)
        cross, own = maps
        prior = attention_prior(cross[row], None if own is None else own[row])
        if self.mask is None:
            return prior
        try:
            inside = prior * mask.weights(*prior.shape).to(prior)
        except ValueError:  # smaller than a cell of the maps
            inside = torch.zeros_like(prior)
        return inside if inside.any() else mask.weights(*picture.shape[1:]).to(picture)


def attention_flow(cross: Tensor, own: Tensor) -> Tensor:
    r"""Cross-attention spread along self-attention, (h, w) in [0, 1].

    With C the normalised mean of the subject's cross-attention maps and $S_p$ the self-attention
    of cell p, over all cells,

    $$ f = \mathrm{norm}\left(\frac{\sum_p C_p S_p}{\sum_p C_p} \odot C\right) $$

    Arguments:
        cross: How much each cell looks at the subject's words, (h, w), not negative.
        own: How much each cell looks at each other one, (h w, h w), rows sum to 1.

    Raises:
        ValueError: If the shapes don't fit.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        >>> seen = torch.tensor([[1.0, 0.2], [0.0, 0.0]])
        >>> attention_flow(seen, torch.eye(4))
        tensor([[1.0000, 0.0400],
                [0.0000, 0.0000]])
    """
    cells = cross.numel()
    if own.shape != (cells, cells):
        raise ValueError(
            f"own must be ({cells}, {cells}) for cross of shape {tuple(cross.shape)}, got "
            f"{tuple(own.shape)}"
        )
    weight = unit_range(cross.double()).reshape(-1)
    spread = weight @ own.double() / weight.sum().clamp(min=1e-12)
    return unit_range(spread * weight).reshape(cross.shape).to(cross)


def attention_prior(cross: Tensor, own: Tensor | None = None) -> Tensor:
    r"""Where the subject is, (h, w) in [0, 1]: $\mathrm{norm}(f + C)$, C without `own`."""
    seen = unit_range(cross)
    return seen if own is None else unit_range(attention_flow(cross, own) + seen)

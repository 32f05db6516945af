r"""From attention to a prior of where the subject is.

With C the normalised mean of the subject's cross-attention maps and $S_p$ the self-attention of
cell p, over all cells,

$$f = \mathrm{norm}\left(\frac{\sum_p C_p S_p}{\sum_p C_p} \odot C\right), \qquad
\pi = \mathrm{norm}(f + C).$$
"""

import torch
from torch import Tensor

__all__ = ["attention_flow", "attention_prior", "unit_range"]


def unit_range(x: Tensor) -> Tensor:
    """Values stretched to [0, 1]; zeros where all are the same.

    >>> unit_range(torch.tensor([2.0, 3.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    low, high = x.amin(), x.amax()
    return (x - low) / (high - low) if high > low else torch.zeros_like(x)


def attention_flow(cross: Tensor, own: Tensor) -> Tensor:
    r"""Cross-attention spread along self-attention, (h, w) in [0, 1]: f above.

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
    """Where the subject is, (h, w) in [0, 1]; the cross-attention alone without self-attention."""
    seen = unit_range(cross)
    return seen if own is None else unit_range(attention_flow(cross, own) + seen)

"""Plain above, steered below: one picture that says what steering did and what it cost."""

from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from fkdiff.report.lineage import COLOURS
from fkdiff.report.page import cost_line, number
from fkdiff.report.pictures import to_image
from fkdiff.report.sweeps import CRISP, png_of

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from fkdiff.result import Result

__all__ = ["beside_png"]

_MOST = 8  # pictures in a row


def beside_png(plain: "Result", steered: "Result") -> bytes:
    """The first prompt's pictures of both runs as a PNG, best first, with the cost of each side.

    Arguments:
        plain: The same call unsteered, scored by the same rewards.
        steered: The run.
    """
    wide = min(_MOST, steered.log_w.shape[1])
    figure = Figure(figsize=(1.2 * wide + 0.2, 4.2), dpi=150, layout="constrained")
    figure.suptitle(steered.prompts[0], fontsize=11, color=COLOURS["text"], parse_math=False)
    monitors = steered.settings.get("monitor", ())
    name = next((n for n in steered.rewards if n not in monitors), None)
    halves: Any = figure.subfigures(2, 1)
    for half, result, title in zip(halves, (plain, steered), ("plain", "steered"), strict=True):
        _side(half, result, title, name, wide)
    return png_of(figure)


def _side(half: "SubFigure", result: "Result", title: str, name: str | None, wide: int) -> None:
    values = result.rewards.get(name) if name else None
    order = result.order[0] if values is None else torch.argsort(values[0], descending=True)
    grey: Any = {"color": COLOURS["text"], "parse_math": False}
    half.suptitle(title, fontsize=10, x=0.01, ha="left", **grey)
    half.supxlabel(cost_line(result.cost), fontsize=9, **grey)
    axes: Any = half.subplots(1, wide, squeeze=False)[0]
    assert result.samples is not None
    for axis, slot in zip(axes, order[:wide].tolist(), strict=True):
        image = to_image(result.samples[0, slot])
        axis.imshow(image, interpolation="nearest" if image.width < CRISP else "antialiased")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        if values is not None:
            axis.set_xlabel(number(float(values[0, slot]), 3), fontsize=8, labelpad=2, **grey)

"""Who descends from whom: the ancestry of a particle cloud as a picture."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fkdiff.result import Result

__all__ = ["COLOURS", "draw_lineage", "events"]

COLOURS = {
    "text": "#5f6670",
    "line": "#d9dce1",
    "mark": "#e6c9bd",
    "one": "#9db4cf",
    "all": "#2f5d8c",
    "best": "#c2542d",
    "dead": "#d5d8dd",
}


def events(result: "Result", prompt: int) -> list[tuple[int, np.ndarray]]:
    """Resamplings of a prompt: transitions done by then, and the parent slot of each slot."""
    particles = result.log_w.shape[1]
    own = slice(prompt * particles, (prompt + 1) * particles)
    found = []
    for index, rows in enumerate(result.rows):
        if rows is not None:
            parents = rows[own].cpu().numpy() - own.start
            if (parents != np.arange(particles)).any():
                found.append((index + 1, parents))
    return found


def draw_lineage(axis: "Axes", result: "Result", prompt: int) -> None:
    """Draw a line for each slot; those that lead to the final cloud, and to its best, stand out.

    The dots at the right are the final particles, their areas the weights.
    """
    particles, end = result.log_w.shape[1], max(len(result.trace), 1)
    happened = events(result, prompt)
    best = int(result.order[prompt, 0])
    generations = _generations(happened, particles, best)
    for name, width, order in (("dead", 0.9, 1), ("all", 1.3, 2), ("best", 2.2, 3)):
        curve = _curve(happened, generations[name], end)
        if curve is not None:
            style = {"edgecolor": COLOURS[name], "linewidth": width, "facecolor": "none"}
            axis.add_patch(PathPatch(curve, zorder=order, capstyle="round", **style))
    weights = np.nan_to_num(result.weights[prompt].cpu().numpy())
    colours = [COLOURS["best" if slot == best else "all"] for slot in range(particles)]
    largest = min(110, (400 / particles) ** 2)  # points squared: neighbours stay apart
    sizes = 0.05 * largest + largest * weights / max(weights.max(), 1e-12)
    axis.scatter(np.full(particles, end), np.arange(particles), s=sizes, c=colours, zorder=4)
    axis.set_ylim(particles - 0.4, -0.6)
    axis.set_yticks(sorted({0, particles - 1}))
    axis.set_title("lineage: slots over time", loc="left", fontsize=9.5, color=COLOURS["text"])
    axis.text(
        1.01,
        0.0,
        "● area:\n    weight",
        color=COLOURS["all"],
        fontsize=9,
        transform=axis.transAxes,
    )


def _generations(
    happened: list[tuple[int, np.ndarray]], particles: int, best: int
) -> dict[str, list[np.ndarray]]:
    """Masks of slots between resamplings: the best's ancestors, the cloud's, and all others."""
    alive, chosen = np.ones(particles, bool), np.arange(particles) == best
    lines: dict[str, list[np.ndarray]] = {"best": [chosen], "all": [alive & ~chosen]}
    lines["dead"] = [~alive]
    for _, parents in reversed(happened):
        alive, chosen = (_parents(mask, parents) for mask in (alive, chosen))
        lines["best"].insert(0, chosen)
        lines["all"].insert(0, alive & ~chosen)
        lines["dead"].insert(0, ~alive)
    return lines


def _parents(mask: np.ndarray, parents: np.ndarray) -> np.ndarray:
    found = np.zeros_like(mask)
    found[parents[mask]] = True
    return found


def _curve(
    happened: list[tuple[int, np.ndarray]], masks: list[np.ndarray], end: int
) -> Curve | None:
    """One compound path of the masked slots: small as SVG, however many particles there are."""
    points, codes = [], []
    times = [0, *(time for time, _ in happened), end]
    for generation, mask in enumerate(masks):
        start, stop = times[generation], times[generation + 1]
        bend = min(0.9, stop - start) if generation else 0
        for slot in np.flatnonzero(mask):
            if generation:
                parent = happened[generation - 1][1][slot]
                middle = start + bend / 2
                points += [(start, parent), (middle, parent), (middle, slot), (start + bend, slot)]
                codes += [Curve.MOVETO, *[Curve.CURVE4] * 3]
            else:
                points.append((start, slot))
                codes.append(Curve.MOVETO)
            points.append((stop, slot))
            codes.append(Curve.LINETO)
    return Curve(points, codes) if points else None

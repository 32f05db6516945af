"""The course of a run as one figure: rewards, effective sample size and lineage, step by step."""

import math
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fkdiff.report.lineage import COLOURS, draw_lineage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fkdiff.result import Result

__all__ = ["course_figure", "course_svg"]

_GAP, _FOOT = 0.36, 0.5  # inches above each panel, for its title, and below the last
_MOST_REWARDS = 3  # panels; further rewards are in the JSON


def course_svg(result: "Result", prompt: int) -> str:
    """Return one prompt's course as an SVG document; see `course_figure`."""
    return _svg(course_figure(result, prompt))


def course_figure(result: "Result", prompt: int) -> Figure:
    """Return one prompt's course as a figure: reward traces, ESS trace and lineage.

    Arguments:
        result: A run with at least one transition in its trace.
        prompt: Which of its prompts.
    """
    names = _traced(result, prompt)
    corrected = any(entry.variance is not None for entry in result.trace)
    heights = [1.6] * len(names) + [0.9] * corrected + [1.2, _lineage_height(result)]
    tall = sum(heights) + _GAP * len(heights) + _FOOT
    # Placed by hand: constrained layout takes longer and isn't the same to the last bit each time.
    place = {"left": 0.05, "right": 0.895, "bottom": _FOOT / tall, "top": 1 - _GAP / tall}
    place |= {"hspace": _GAP * len(heights) / sum(heights), "height_ratios": heights}
    figure = Figure(figsize=(9.6, tall))
    panels = figure.subplots(len(heights), sharex=True, gridspec_kw=place, squeeze=False)
    axes: list[Axes] = list(panels[:, 0])
    for axis, name in zip(axes, names, strict=False):
        _draw_reward(axis, result, prompt, name)
    if corrected:
        _draw_variance(axes[-3], result, prompt)
    _draw_ess(axes[-2], result, prompt)
    draw_lineage(axes[-1], result, prompt)
    for axis in axes:
        _quiet(axis)
        for entry in result.trace:
            if entry.resampled[prompt]:
                axis.axvline(entry.index + 1, color=COLOURS["mark"], linewidth=0.8, zorder=0)
    axes[-1].set_xlabel("transitions", loc="right")
    axes[-1].set_xlim(0, 1.02 * max(len(result.trace), 1))
    return figure


def _traced(result: "Result", prompt: int) -> list[str]:
    """Rewards with at least one finite value on the way, the ones that steer first."""
    names = dict.fromkeys(name for entry in result.trace for name in entry.rewards)
    monitors = set(result.settings.get("monitor", ()))
    finite = [n for n in names if np.isfinite(_series(result, prompt, n)[1]).any()]
    return sorted(finite, key=lambda name: name in monitors)[:_MOST_REWARDS]


def _series(result: "Result", prompt: int, name: str) -> tuple[Any, Any]:
    """Transitions (S,) and one prompt's rewards (S, K) at them."""
    seen = [entry for entry in result.trace if name in entry.rewards]
    values = [entry.rewards[name][prompt].double().cpu().numpy() for entry in seen]
    return np.array([entry.index + 1 for entry in seen]), np.array(values)


def _draw_reward(axis: "Axes", result: "Result", prompt: int, name: str) -> None:
    steps, values = _series(result, prompt, name)
    values = np.where(np.isfinite(values), values, np.nan)
    kept = np.isfinite(values).any(axis=1)
    steps, values = steps[kept], values[kept]
    particles = values.shape[1]
    dots = axis.scatter(np.repeat(steps, particles), values.ravel(), s=9, linewidths=0)
    dots.set(color=COLOURS["one"], alpha=max(0.25, min(0.8, 6 / particles)))
    marker = "o" if len(steps) == 1 else None  # one point makes no line
    for line, colour in ((np.nanmax, "best"), (np.nanmean, "all")):
        style = {"linewidth": 1.6, "marker": marker, "markersize": 4.5}
        axis.plot(steps, line(values, axis=1), color=COLOURS[colour], **style)
    _label(axis, f"reward {name}")
    for y, word, colour in ((0.99, "best", "best"), (0.8, "mean", "all")):
        axis.text(
            1.01, y, word, color=COLOURS[colour], transform=axis.transAxes, va="top", fontsize=9
        )


def _draw_variance(axis: "Axes", result: "Result", prompt: int) -> None:
    """Spread of what the corrector added at each transition: what costs effective samples."""
    kept = [entry for entry in result.trace if entry.variance is not None]
    steps = [entry.index + 1 for entry in kept]
    values = [float(v[prompt]) for v in (entry.variance for entry in kept) if v is not None]
    axis.bar(steps, values, width=0.8, color=COLOURS["one"])
    _label(axis, f"variance of the log-weights' increments (corrector), {sum(values):.3g} in all")


def _draw_ess(axis: "Axes", result: "Result", prompt: int) -> None:
    particles = result.log_w.shape[1]
    line, fired = [(0.0, float(particles))], []
    for entry in result.trace:
        line.append((entry.index + 1, float(entry.ess[prompt])))
        if entry.resampled[prompt]:
            fired.append(line[-1])
            line.append((math.nan, math.nan))  # what the ESS is just after isn't recorded
    axis.plot(*zip(*line, strict=True), color=COLOURS["all"], linewidth=1.6)
    if fired:
        axis.plot(*zip(*fired, strict=True), "o", color=COLOURS["best"], markersize=4.5)
        axis.text(
            1.01, 0.0, "● resampled", color=COLOURS["best"], transform=axis.transAxes, fontsize=9
        )
    axis.set_ylim(0, particles * 1.08)
    axis.set_yticks([0, particles] if particles == 1 else [0, particles / 2, particles])
    _label(axis, "effective sample size")


def _lineage_height(result: "Result") -> float:
    return min(4.2, 0.9 + 0.12 * result.log_w.shape[1])


def _label(axis: "Axes", words: str) -> None:
    title = axis.set_title(words, loc="left", fontsize=9.5, color=COLOURS["text"], pad=5)
    title.set_parse_math(False)  # a reward's name is its author's, "$" included


def _quiet(axis: "Axes") -> None:
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(COLOURS["line"])
    axis.tick_params(colors=COLOURS["text"], labelsize=8.5, length=0)
    axis.grid(axis="y", color=COLOURS["line"], linewidth=0.6, alpha=0.6)
    axis.set_axisbelow(True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.xaxis.label.set(color=COLOURS["text"], fontsize=9)
    low, high = axis.get_ylim()
    if not (math.isfinite(low) and math.isfinite(high)):
        axis.set_ylim(0, 1)


def _svg(figure: Figure) -> str:
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "fkdiff"}):  # the same run gives the same bytes
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return buffer.getvalue().decode()

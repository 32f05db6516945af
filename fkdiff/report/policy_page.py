"""The report of closed-loop episodes: success, latency and the choice of K', on one page."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from fkdiff._version import __version__
from fkdiff.policy.intervals import paired_difference, wilson
from fkdiff.policy.methods import METHODS
from fkdiff.report.folder import write_file, write_json
from fkdiff.report.lineage import COLOURS
from fkdiff.report.page import template
from fkdiff.report.pictures import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fkdiff.policy.calibration import Choice
    from fkdiff.policy.rollouts import Episode

__all__ = ["MethodFacts", "save_evaluation"]


@dataclass(frozen=True)
class MethodFacts:
    """What one method did: outcomes by episode, cost a decision, and times in milliseconds."""

    name: str
    outcomes: tuple[bool, ...]
    evaluations: float
    cold: float
    steps: float
    times: tuple[float, ...] = field(default=())

    @classmethod
    def of(cls, name: str, episodes: "Sequence[Episode]", times: Sequence[float]) -> "MethodFacts":
        """Sum up episodes, in the order of their seeds."""
        rows = sorted(episodes, key=lambda episode: episode.seed)
        decisions = max(sum(row.decisions for row in rows), 1)
        return cls(
            name,
            tuple(row.success for row in rows),
            sum(row.evaluations for row in rows) / decisions,
            sum(row.cold for row in rows) / decisions,
            statistics.fmean(row.steps for row in rows),
            tuple(times),
        )

    @property
    def rate(self) -> float:
        """Share of episodes that succeeded."""
        return sum(self.outcomes) / len(self.outcomes)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the rate."""
        return wilson(sum(self.outcomes), len(self.outcomes))

    def cells(self) -> tuple[str, ...]:
        """A row of the table: success, interval, evaluations, cold decisions, times."""
        low, high = self.interval
        median, late = _milliseconds(self.times)
        return (
            self.name,
            f"{sum(self.outcomes)}/{len(self.outcomes)}",
            f"{100 * low:.0f} to {100 * high:.0f}%",
            f"{self.evaluations:.2f}",
            f"{100 * self.cold:.1f}%",
            median,
            late,
        )


def save_evaluation(
    folder: Path,
    settings: dict[str, Any],
    facts: Sequence[MethodFacts],
    choice: "Choice | None" = None,
    film: bytes | None = None,
    note: str = "",
) -> Path:
    """Write `report.html`, `evaluation.json` and, if there is one, `episode.gif`.

    Arguments:
        folder: Where to write; made if it isn't there.
        settings: What was asked for.
        facts: One a method.
        choice: How K' was chosen, for its figure.
        film: A GIF.
        note: What to say in place of a film.

    Returns:
        The page.
    """
    if film is not None:
        write_file(folder / "episode.gif", film)
    else:
        (folder / "episode.gif").unlink(missing_ok=True)  # an earlier run's
    write_json(
        folder / "evaluation.json",
        {
            "fkdiff": __version__,
            "settings": settings,
            "methods": {fact.name: asdict(fact) for fact in facts},
            "choice": None if choice is None else asdict(choice),
        },
    )
    page = folder / "report.html"
    figures = {"success": _success_svg(facts)}
    if any(fact.times for fact in facts):
        figures["latency"] = _latency_svg(facts)
    if choice is not None:
        figures["choice"] = _choice_svg(choice)
    text = template("policy.html").render(
        title=f"{settings['task']} · {', '.join(fact.name for fact in facts)}",
        settings={key.replace("_", " "): _worded(value) for key, value in settings.items()},
        rows=[(fact.cells(), METHODS.get(fact.name, "")) for fact in facts],
        differences=_differences(facts),
        figures={name: data_uri(svg.encode(), "image/svg+xml") for name, svg in figures.items()},
        explained="" if choice is None else choice.explain(),
        film=None if film is None else data_uri(film, "image/gif"),
        note=note,
        version=__version__,
        style=(Path(__file__).parent / "report.css").read_text(encoding="utf-8"),
    )
    write_file(page, text.encode())
    return page


def _differences(facts: Sequence[MethodFacts]) -> list[str]:
    """The first method against each other, on the same episodes."""
    lines = []
    for other in facts[1:]:
        value, (low, high) = paired_difference(facts[0].outcomes, other.outcomes)
        lines.append(
            f"{facts[0].name} minus {other.name}: {100 * value:+.0f} points "
            f"(95% from {100 * low:+.0f} to {100 * high:+.0f})"
        )
    return lines


def _milliseconds(times: Sequence[float]) -> tuple[str, str]:
    """Median and 95th percentile in words.

    >>> _milliseconds([1.0, 2.0, 3.0]), _milliseconds([])
    (('2.00', '2.90'), ('not timed', ''))
    """
    if not times:
        return "not timed", ""
    return f"{statistics.median(times):.2f}", f"{np.percentile(times, 95):.2f}"


def _success_svg(facts: Sequence[MethodFacts]) -> str:
    figure = Figure(figsize=(9.6, 0.7 + 0.34 * len(facts)), layout="constrained")
    axis = figure.subplots()
    for row, fact in enumerate(facts):
        low, high = fact.interval
        axis.plot([100 * low, 100 * high], [row, row], color=COLOURS["one"], linewidth=3)
        axis.plot(100 * fact.rate, row, "o", color=COLOURS["best"], markersize=7)
    axis.set_yticks(range(len(facts)), [fact.name for fact in facts])
    axis.set(xlim=(-2, 102), ylim=(len(facts) - 0.5, -0.5))
    axis.set_xlabel("success in % and its 95% interval", loc="right")
    return _svg(figure, axis)


def _latency_svg(facts: Sequence[MethodFacts]) -> str:
    timed = [fact for fact in facts if fact.times]
    figure = Figure(figsize=(9.6, 0.6 + 0.75 * len(timed)), layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(timed), sharex=True, squeeze=False)[:, 0])
    every = [value for fact in timed for value in fact.times]
    edges = np.geomspace(min(every) * 0.95, np.percentile(every, 99.5) * 1.1, 70)
    for axis, fact in zip(axes, timed, strict=True):
        axis.hist(np.clip(fact.times, edges[0], edges[-1]), edges.tolist(), color=COLOURS["one"])
        axis.axvline(statistics.median(fact.times), color=COLOURS["best"], linewidth=1.6)
        axis.set_ylabel(fact.name, rotation=0, ha="right", va="center")
        axis.set(yticks=[], xscale="log")
    ticks = [
        tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if edges[0] < tick < edges[-1]
    ]
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].minorticks_off()
    axes[-1].set_xlabel("milliseconds a decision, one environment; line: median", loc="right")
    return _svg(figure, *axes)


def _choice_svg(choice: "Choice") -> str:
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    axis = figure.subplots()
    starts, _, remaining = zip(*choice.table, strict=True)
    axis.plot(starts, remaining, color=COLOURS["all"], linewidth=1.6)
    axis.axhline(choice.tolerance, color=COLOURS["mark"], linewidth=1)
    axis.text(starts[-1], choice.tolerance, "tolerance", ha="right", va="bottom", fontsize=9)
    if choice.start <= len(starts):
        axis.plot(choice.start, choice.remaining, "o", color=COLOURS["best"], markersize=7)
        axis.annotate(
            f"K' = {choice.start}",
            (choice.start, choice.remaining),
            (8, 4),
            textcoords="offset points",
        )
    axis.set(yscale="log", ylabel="remaining error", xlim=(0, starts[-1] + 1))
    axis.set_xlabel("levels undone, K'", loc="right")
    return _svg(figure, axis)


def _worded(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)


def _svg(figure: Figure, *axes: "Axes") -> str:
    for axis in axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(COLOURS["line"])
        axis.tick_params(colors=COLOURS["text"], labelsize=9, length=0)
        axis.grid(axis="x", color=COLOURS["line"], linewidth=0.6, alpha=0.6)
        axis.set_axisbelow(True)
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "fkdiff"}):  # the same run gives the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()

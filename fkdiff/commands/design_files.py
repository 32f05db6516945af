"""What the commands that design sequences share: numbers checked, files written, a table told."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.bounds import check_bounds
from fkdiff.commands.places import check_file, is_ours
from fkdiff.commands.stops import refused

if TYPE_CHECKING:
    from fkdiff.result import Result
    from fkdiff.sequences.designs import Designs

__all__ = ["check_numbers", "check_out", "write_designs"]


_MOST = 100_000


def check_numbers(asked: Any, finite: Sequence[str]) -> None:
    """Refuse counts below 1 and numbers that aren't finite.

    Arguments:
        asked: The options, with `n`, `particles`, `steps` and `draws`.
        finite: Names of the options that must be finite.
    """
    check_bounds(asked)
    for name in finite:
        if not math.isfinite(getattr(asked, name)):
            raise refused(f"--{name} must be a finite number, got {getattr(asked, name)}")
    if asked.n * asked.particles > _MOST:
        rows = asked.n * asked.particles
        raise refused(f"--n times --particles must be at most {_MOST}, got {rows}; draw fewer")


def check_out(out: Path) -> None:
    """Refuse a file that can't be written, and files beside it that fkdiff didn't write."""
    beside = (".csv", ".json", ".png")
    if out.suffix.lower() in beside:
        raise refused(
            f"--out must not end in {', '.join(beside)}, which are written beside it, got {out}; "
            f"use designs.fasta"
        )
    ours = is_ours(out.with_suffix(".json"), "settings", "target", "summary", "cost")
    for file in (out, *map(out.with_suffix, beside)):
        check_file("--out", file, ours)


def write_designs(
    asked: Any,
    result: "Result",
    sets: "dict[str, Designs]",
    text: str,
    about: dict[str, Any],
    told: Sequence[str],
) -> None:
    """Write the designs with a table, a summary and a picture beside them, and tell of them.

    Arguments:
        asked: The options, with `out`.
        result: The record of the run.
        sets: "designs", and what they are compared with.
        text: What the file holds.
        about: What the summary tells beyond settings, target and cost.
        told: Lines below the printed table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fkdiff.report.folder import write_file, write_json

    out, designs = asked.out, sets["designs"]
    summaries = {name: each.summary() for name, each in sets.items()}
    write_file(out, text.encode())
    write_file(out.with_suffix(".csv"), designs.csv().encode())
    summary = {
        "settings": {**vars(asked), "out": out.name},
        "target": result.target,
        "summary": summaries,
        "effective sample size": float(result.ess.mean()),
        **about,
        "cost": vars(result.cost),
    }
    write_json(out.with_suffix(".json"), summary)
    if designs.properties:
        write_file(out.with_suffix(".png"), _picture(sets))
    table = Table("", *summaries, box=None, pad_edge=False)
    for row in summaries["designs"]:
        table.add_row(Text(row), *(f"{each[row]:g}" for each in summaries.values()))
    console = Console()
    console.print(table)
    beside = ".csv, .json and .png" if designs.properties else ".csv and .json"
    for line in [*told, f"{out}, with {beside} beside it"]:
        console.print(line, markup=False, highlight=False)


def _picture(sets: "dict[str, Designs]") -> bytes:
    """Distributions of the properties of several sets, side by side, as PNG."""
    from matplotlib.figure import Figure

    names = list(sets["designs"].properties)
    figure = Figure(figsize=(3.2 * len(names), 2.6), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        values = [[v for v in s.properties[name] if math.isfinite(v)] for s in sets.values()]
        axis.boxplot(values, tick_labels=list(sets), widths=0.6)
        axis.set_title(name, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()

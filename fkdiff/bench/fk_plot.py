"""The scaling plot: pass rate over particles, FK steering beside best-of-n."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

__all__ = ["draw_scaling"]

_SHOWN = {"fk": ("FK steering", "#0b6e99", "o"), "bon": ("best of n", "#b45f06", "s")}


def draw_scaling(rates: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """Write a PNG of `[rate, low, high]` by number of particles, for "fk" and "bon"."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for shift, (name, (label, colour, marker)) in zip((0.98, 1.02), _SHOWN.items(), strict=True):
        sizes = [int(n) * shift for n in rates[name]]
        rate, low, high = np.array(list(rates[name].values())).T
        style = {"label": label, "color": colour, "marker": marker, "capsize": 3}
        axes.errorbar(sizes, rate, (rate - low, high - rate), **style)
    ticks = [int(n) for n in rates["fk"]]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlabel("particles, or samples chosen from")
    axes.set_ylabel("passed by emoji-judge")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=150)

"""The scaling plot: pass rate over particles, FK steering beside best-of-n."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["draw_scaling"]

_SHOWN = {"fk": ("FK steering", "#0b6e99", "o"), "bon": ("best of n", "#b45f06", "s")}


def draw_scaling(rates: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """Write a PNG of pass rates with 95% intervals.

    Arguments:
        rates: For "fk" and "bon": number of particles to `[rate, low, high]`.
        file: Where to.
    """
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for shift, (name, (label, colour, marker)) in zip((0.98, 1.02), _SHOWN.items(), strict=True):
        sizes = [int(n) * shift for n in rates[name]]
        rate, low, high = zip(*rates[name].values(), strict=True)
        below = [r - a for r, a in zip(rate, low, strict=True)]
        above = [b - r for r, b in zip(rate, high, strict=True)]
        axes.errorbar(
            sizes, rate, (below, above), label=label, color=colour, marker=marker, capsize=3
        )
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

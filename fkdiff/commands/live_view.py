"""What the page of `fkdiff app` shows of a run, as escaped HTML."""

from typing import TYPE_CHECKING, Any

from fkdiff.commands.live_run import Glimpse
from fkdiff.report.facts import ranked
from fkdiff.report.page import cost_line, number, template
from fkdiff.report.pictures import data_uri, has_pictures, inline, to_image
from fkdiff.report.plots import course_svg

if TYPE_CHECKING:
    from PIL.Image import Image

    from fkdiff.result import Result

__all__ = ["finished_view", "glimpse_view", "plain_view"]

_NOTHING = {"share": None, "cards": (), "note": "", "spark": None, "course": None, "facts": None}
_NOTHING |= {"archive": None}
_WIDTH = 190  # CSS pixels of a picture, as in app.css


def plain_view(state: str, heading: str, words: str = "") -> str:
    """A line of words.

    >>> "&lt;b&gt;" in plain_view("ready", "a <b>cat</b>")
    True
    """
    given = {**_NOTHING, "state": state, "heading": heading, "words": words, "columns": 1}
    return template("live.html").render(given)


def glimpse_view(seen: Glimpse) -> str:
    """A run on its way: how far it is, each particle's estimate, and the sample size."""
    pictures, values = seen.pictures or (), seen.rewards or (None,) * seen.particles
    cards = [
        _card(picture, "" if value is None else number(value, 3), f"particle {slot}")
        for slot, (picture, value) in enumerate(zip(pictures, values, strict=False))
    ]
    note = "" if pictures else "No previews: this family's small decoder isn't on this machine."
    shown = {
        "state": "running",
        "heading": f"Step {seen.done} of {seen.total}",
        "words": f"· ESS {number(seen.ess[-1], 3)} of {seen.particles}",
        "share": seen.done / seen.total,
        "columns": _columns(seen.particles),
        "cards": cards,
        "note": note or "What each particle would become, and the reward's estimate of it.",
        "spark": _spark(seen),
    }
    return template("live.html").render({**_NOTHING, **shown})


def finished_view(result: "Result", folder: str, archive: str | None = None) -> str:
    """A run that is over: pictures best first, what happened on the way, what it cost.

    Arguments:
        result: Of one prompt.
        folder: Where it is.
        archive: Address of its archive, None for no download.
    """
    particles, rows = result.log_w.shape[1], ranked(result)
    names = [name for name in result.rewards if name not in result.settings.get("monitor", ())]
    heaviest = float(result.weights.max())
    cards = []
    for row in rows if has_pictures(result) else ():
        assert result.samples is not None
        caption = " · ".join(number(row["rewards"][name], 3) for name in names)
        weight = f"weight {number(row['weight'], 2)}"
        bar = 100 * row["weight"] / heaviest if heaviest > 0 else 0.0
        picture = to_image(result.samples[0, row["slot"]])
        card = _card(picture, caption, result.prompts[0])
        cards.append({**card, "bar": bar, "weight": weight, "returned": row["returned"]})
    svg = course_svg(result, 0).encode() if result.trace and result.log_w.any() else None
    facts = {"Target": result.target, "Cost": cost_line(result.cost), "Folder": folder}
    told = f"· ESS {number(float(result.ess[0]), 3)} of {particles}"
    shown = {
        "state": "finished",
        "heading": result.prompts[0],
        "words": f"{told} · log Z {number(float(result.log_z[0]), 3)}",
        "columns": _columns(particles),
        "cards": cards,
        "note": f"Best first, {' and '.join(names)} below each picture; bars are weights."
        if names
        else "No reward: every picture is as good as the others.",
        "course": svg and data_uri(svg, "image/svg+xml"),
        "facts": facts,
        "archive": archive,
    }
    return template("live.html").render({**_NOTHING, **shown})


def _card(picture: "Image", caption: str, alt: str) -> dict[str, Any]:
    source, crisp = inline(picture, _WIDTH)
    about = {"source": source, "crisp": crisp, "caption": caption, "alt": alt}
    return {**about, "bar": None, "weight": "", "returned": False}


def _columns(particles: int) -> int:
    """Columns that leave no row much shorter than the others.

    >>> [_columns(n) for n in (1, 2, 3, 4, 6, 8, 16)]
    [1, 2, 3, 4, 3, 4, 4]
    """
    return particles if particles < 5 else 3 if particles % 4 and not particles % 3 else 4


def _spark(seen: Glimpse) -> dict[str, Any]:
    """The effective sample size so far as a line in a box of 600 x 120."""

    def place(step: int, ess: float) -> tuple[float, float]:
        return round(600 * step / seen.total, 1), round(110 - 100 * ess / seen.particles, 1)

    points = [place(0, seen.particles), *(place(i + 1, e) for i, e in enumerate(seen.ess))]
    times = "once" if len(seen.resampled) == 1 else f"{len(seen.resampled)} times"
    return {
        "points": " ".join(f"{x},{y}" for x, y in points),
        "resampled": [place(step, 0)[0] for step in seen.resampled],
        "words": f"{number(seen.ess[-1], 3)} of {seen.particles}, resampled {times}",
    }

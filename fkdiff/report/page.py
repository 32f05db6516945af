"""The report: one self-contained HTML page for a run."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from fkdiff.report.facts import ranked
from fkdiff.report.pictures import data_uri, has_pictures, inline, to_image
from fkdiff.report.plots import course_svg
from fkdiff.report.snippet import brief
from fkdiff.terms.repair import is_heavy

if TYPE_CHECKING:
    from fkdiff.result import Cost, Result

__all__ = ["Card", "Grid", "cost_line", "number", "render", "template"]

_PAGE_WIDTH = 1080  # CSS pixels, as in report.css


@dataclass(frozen=True)
class Card:
    """One picture of a grid: where it is, how to show it and what to say below it."""

    source: str
    crisp: bool
    caption: str
    weight: str
    bar: float | None
    returned: bool


@dataclass(frozen=True)
class Grid:
    """Pictures of one prompt from one run, best first, with what they cost together."""

    title: str
    note: str
    columns: int
    width: int
    cards: tuple[Card, ...]
    cost: str


def render(result: "Result", about: dict[str, Any], plain: "Result | None" = None) -> str:
    """The page as text; whatever comes from prompts, names or settings is escaped."""
    names = [name for name in result.rewards if name not in result.settings.get("monitor", ())]
    shown = names[-1:] if len(result.settings.get("terms", ())) < 2 else names[:2]
    return template("report.html").render(
        about=about,
        title=" · ".join(filter(None, result.prompts)) or "a steered run",
        sections=[_section(result, plain, p, shown) for p in range(len(result.prompts))],
        steering=names,
        shown=shown,
        facts=_facts(result, about),
        settings=_settings(about),
        note=None if has_pictures(result) else f"No pictures: samples are {about['samples']}.",
        style=(Path(__file__).parent / "report.css").read_text(encoding="utf-8"),
    )


def number(value: float | None, figures: int = 4) -> str:
    """A value in a few figures, or what it is instead of one.

    >>> number(0.123456), number(1234567.0), number(float("nan")), number(float("-inf"))
    ('0.1235', '1,234,567', 'not a number', '−∞')
    >>> number(0.123456, figures=2)
    '0.12'
    """
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.{figures}g}"
    return text.replace("-", "−")


def cost_line(cost: "Cost") -> str:
    """What a run spent, in one line.

    >>> from fkdiff.result import Cost
    >>> cost_line(Cost(480, 8, {"bright": 8}, {"total": 2.5}))
    '480 denoiser evaluations · 8 decodes · 8 reward calls · 2.5 s'
    """
    counts = {
        "denoiser evaluations": cost.denoiser_evaluations,
        "decodes": cost.decodes,
        "reward calls": sum(cost.reward_calls.values()),
    }
    parts = [f"{count:,} {what}" for what, count in counts.items()]
    if "total" in cost.seconds:
        parts.append(f"{cost.seconds['total']:.3g} s")
    return " · ".join(parts)


@cache
def template(name: str) -> Template:
    """A page's template; whatever it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(name)


def _section(
    result: "Result", plain: "Result | None", prompt: int, names: list[str]
) -> dict[str, Any]:
    grids = []
    if plain is not None and has_pictures(plain):
        title = "Plain: the pipeline as it is, the same seed"
        grids.append(_grid(plain, prompt, names, title, weighted=False))
    if has_pictures(result):
        title = "Steered" if result.settings.get("terms") else "Drawn"
        grids.append(_grid(result, prompt, names, title, weighted=True))
    course = None
    if result.trace and result.log_w.any():  # otherwise nothing happened
        course = data_uri(course_svg(result, prompt).encode(), "image/svg+xml")
    return {
        "prompt": result.prompts[prompt] or f"prompt {prompt + 1}",
        "grids": grids,
        "course": course,
        "ess": float(result.ess[prompt]),
        "repair": None if result.repair is None else float(result.repair[prompt]),
        "heavy": is_heavy(result.repair, result.log_w.shape[1], prompt),
        "log_z": float(result.log_z[prompt]),
        "resamplings": sum(bool(entry.resampled[prompt]) for entry in result.trace),
        "ancestors": len(result.ancestors()[prompt].unique()),
        "rows": [row for row in ranked(result) if row["prompt"] == prompt],
    }


def _grid(result: "Result", prompt: int, names: list[str], title: str, weighted: bool) -> Grid:
    order = result.order[prompt].tolist() if weighted else _by_reward(result, prompt, names)
    columns = _columns(len(order))
    width = min(320, (_PAGE_WIDTH - 10 * (columns - 1)) // columns)
    cards = tuple(_card(result, prompt, slot, names, width, weighted) for slot in order)
    means = _means(result, prompt, names, weighted)
    several = f" · {len(result.prompts)} prompts together" if len(result.prompts) > 1 else ""
    return Grid(title, means, columns, width, cards, cost_line(result.cost) + several)


def _card(
    result: "Result", prompt: int, slot: int, names: list[str], width: int, weighted: bool
) -> Card:
    assert result.samples is not None
    source, crisp = inline(to_image(result.samples[prompt, slot]), width)
    values = [result.rewards[name][prompt, slot] for name in names if name in result.rewards]
    caption = " · ".join(number(float(value), 3) for value in values)
    if not weighted:
        return Card(source, crisp, caption, "", None, False)
    weights = result.weights[prompt]
    bar = float(100 * weights[slot] / weights.max())
    words = f"weight {number(float(weights[slot]), 2)}"
    returned = slot in result.selected[prompt].tolist()
    return Card(source, crisp, caption, words, bar if math.isfinite(bar) else 0.0, returned)


def _by_reward(result: "Result", prompt: int, names: list[str]) -> list[int]:
    """Slots of a run without terms, best first by the reward that steers the other run."""
    known = [name for name in names if name in result.rewards]
    if not known:
        return result.order[prompt].tolist()
    key = result.rewards[known[-1]][prompt].nan_to_num(-math.inf)
    return torch.argsort(key, descending=True, stable=True).tolist()


def _columns(count: int) -> int:
    """Columns of a grid: rows come out even where they can.

    >>> [_columns(count) for count in (1, 4, 8, 12, 16, 64)]
    [3, 4, 8, 6, 8, 16]
    """
    if count <= 8:
        return max(count, 3)
    return 16 if count > 32 else min(range(8, 5, -1), key=lambda n: (-count % n, -n))


def _means(result: "Result", prompt: int, names: list[str], weighted: bool) -> str:
    parts = []
    for name in names:
        if name in result.rewards:
            values = result.rewards[name]
            mean = result.mean(values)[prompt] if weighted else values[prompt].mean()
            kind = "weighted mean" if weighted else "mean"
            best = number(float(values[prompt].max()))
            parts.append(f"{name}: best {best}, {kind} {number(float(mean))}")
    return " · ".join(parts)


def _facts(result: "Result", about: dict[str, Any]) -> dict[str, str]:
    settings, cost = about["settings"], result.cost
    stages = [f"{name} {seconds:.3g} s" for name, seconds in cost.seconds.items()]
    calls = [f"{name} {count:,}" for name, count in cost.reward_calls.items()]
    memory = cost.peak_memory_mb
    return {
        "Target": result.target,
        "Replaced": _replaced(settings.get("replaced_step")),
        "Denoiser evaluations": f"{cost.denoiser_evaluations:,}",
        "Decodes": f"{cost.decodes:,}",
        "Reward calls": ", ".join(calls) or "none",
        "Time": ", ".join(stages) or "not measured",
        "Peak memory": f"{memory:,.0f} MB" if memory is not None else "not measured",
    }


def _replaced(step: Any) -> str:
    if not step:
        return "nothing: the pipeline's own scheduler step ran"
    return str(step)


def _settings(about: dict[str, Any]) -> dict[str, str]:
    """The table of settings: flat, briefly worded, without what other places say."""
    settings = dict(about["settings"])
    settings.pop("replaced_step", None)
    settings.pop("monitor_code", None)  # the snippet has it
    call = settings.pop("call", None) or {}
    flat = {**settings, **{k: v for k, v in call.items() if k != "prompt"}, "seed": about["seed"]}
    flat["terms"] = [brief(term) for term in settings.get("terms") or []]
    flat["resample"] = brief(str(settings.get("resample")))
    flat["versions"] = [f"fkdiff {about['fkdiff']}"]
    flat["versions"] += [f"{name} {value}" for name, value in about["versions"].items()]
    return {name.replace("_", " "): _worded(value) for name, value in flat.items()}


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_worded, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_worded(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)

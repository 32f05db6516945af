"""A result as a notebook shows it."""

from html import escape
from typing import TYPE_CHECKING

from fkdiff.report.pictures import data_uri, has_pictures, inline, to_image
from fkdiff.report.plots import course_svg

if TYPE_CHECKING:
    from fkdiff.result import Result

__all__ = ["as_html"]

_MOST, _WIDTH = 8, 96  # pictures of a prompt, and their width in CSS pixels


def as_html(result: "Result") -> str:
    """Return HTML of a result: its line, each prompt's pictures best first, and its course.

    Text that comes from prompts and names is escaped.
    """
    prompts = "".join(_prompt(result, prompt) for prompt in range(len(result.prompts)))
    return f"<p><code>{escape(repr(result))}</code></p>{prompts}"


def _prompt(result: "Result", prompt: int) -> str:
    course = ""
    if result.trace:
        source = data_uri(course_svg(result, prompt).encode(), "image/svg+xml")
        course = f'<p><img src="{source}" width="700"></p>'
    return f"<p>{escape(result.prompts[prompt])}</p><p>{_pictures(result, prompt)}</p>{course}"


def _pictures(result: "Result", prompt: int) -> str:
    if not has_pictures(result) or result.samples is None:
        return ""
    best = result.order[prompt].tolist()[:_MOST]
    sources = [inline(to_image(result.samples[prompt, slot]), _WIDTH) for slot in best]
    style = ' style="image-rendering: pixelated"'
    return " ".join(f'<img src="{s}" width="{_WIDTH}"{style * crisp}>' for s, crisp in sources)

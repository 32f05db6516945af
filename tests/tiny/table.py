"""The table of families in docs/pipelines.md, told from the set-ups that the tests run.

`python -m tests.tiny.table` writes it between its two marks; a test compares.
"""

from collections.abc import Callable
from pathlib import Path

from fkdiff.taps.coefficients import separates_copies
from fkdiff.taps.families import REFUSED
from tests.tiny import SETUPS, build
from tests.tiny.parts import Tiny

PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
MARKS = ("<!-- families: python -m tests.tiny.table -->\n", "<!-- /families -->\n")
HEAD = ("pipeline", "yields", "FK", "SDE step", "experts that correctors read", "set-up")


def table(made: Callable[[str], Tiny] = build) -> str:
    """Markdown of what is steered and what is refused."""
    lines = [HEAD, ("---",) * len(HEAD), *(row(name, made(name)) for name in SETUPS)]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    refused = "".join(f"* `{name}` {reason}.\n" for name, reason in REFUSED.items())
    return f"{rows}\nRefused:\n\n{refused}"


def row(name: str, tiny: Tiny) -> tuple[str, ...]:
    scheduler = tiny.pipe.scheduler
    solver = type(scheduler).__name__.removesuffix("Scheduler")
    step = f"its own, {solver}" if separates_copies(scheduler, {}) else f"in place of {solver}"
    pipeline = type(tiny.pipe).__name__.removesuffix("Pipeline")
    return (pipeline, tiny.inputs, "yes", step, experts(tiny), f"`{name}`")


def experts(tiny: Tiny) -> str:
    told = {None: "none: the guided prediction is rescaled", 1: "one, nothing is guided"}
    return told.get(tiny.cond, "cond, uncond") + (f" ({tiny.note})" if tiny.note else "")


def parts(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks."""
    before, rest = text.split(MARKS[0])
    between, after = rest.split(MARKS[1])
    return before + MARKS[0], between, MARKS[1] + after


if __name__ == "__main__":
    start, _, end = parts(PAGE.read_text())
    PAGE.write_text(start + table() + end)

"""The index of many runs: a page that links each run's report, beside its best picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkdiff.report.folder import write_file
from fkdiff.report.page import template

__all__ = ["Line", "save_index"]


@dataclass(frozen=True)
class Line:
    """One prompt, the name of its run's folder, and what `result.json` says; None if not drawn."""

    prompt: str
    folder: str
    about: dict[str, Any] | None

    @property
    def picture(self) -> str | None:
        """The best picture, as the page finds it."""
        shown = self.about is not None and self.about["samples"] == "images"
        return f"{self.folder}/images/0000.png" if shown else None

    @property
    def reward(self) -> tuple[str, float] | None:
        """Name and value of the best particle's first reward."""
        best = self.about["particles"][0]["rewards"] if self.about is not None else {}
        return next(iter(best.items()), None)


def save_index(out: Path, source: str, lines: Sequence[Line]) -> Path:
    """Write `index.html`; prompts are escaped, pictures and reports are linked.

    Arguments:
        out: Folder that holds the runs' folders.
        source: Name of the file that the prompts came from.
        lines: One a prompt, in the file's order.
    """
    page = out / "index.html"
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    done = sum(line.about is not None for line in lines)
    text = template("index.html").render(source=source, lines=lines, done=done, style=style)
    write_file(page, text.encode())
    return page

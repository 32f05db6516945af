"""What `fkdiff generate` prints of a run."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fkdiff.result import Result

__all__ = ["tell"]


def tell(result: "Result", page: Path) -> None:
    """Print the particles, the evidence, the code and the report's path."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from fkdiff.report.facts import ranked
    from fkdiff.report.snippet import python_of

    console = Console()
    several = len(result.prompts) > 1
    columns = ["image", *(["prompt"] if several else []), *result.rewards, "weight", "returned"]
    table = Table(*map(escape, columns), box=None, pad_edge=False)
    for row in ranked(result):
        cells = [row["file"], *([result.prompts[row["prompt"]]] if several else [])]
        cells += [f"{value:.4g}" for value in row["rewards"].values()]
        cells += [f"{row['weight']:.3f}", "yes" if row["returned"] else ""]
        table.add_row(*map(Text, cells))
    console.print(table)
    for prompt, ess, log_z in zip(result.prompts, result.ess, result.log_z, strict=True):
        about = f"{prompt}: " if several else ""
        console.print(
            f"{about}ESS {ess:.3g} of {result.log_w.shape[1]}, log Z {log_z:.4g}",
            markup=False,
            highlight=False,
        )
    console.print("\nThe Python that does the same:\n", highlight=False)
    console.print(python_of(result, page.parent), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)

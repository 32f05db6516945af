"""`fkdiff bench`: side-by-side measurements, as a table and as JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fkdiff.bench import BENCHES, RESUMABLE
from fkdiff.commands.places import check_file, is_ours, path
from fkdiff.commands.stops import refused
from fkdiff.files import write_whole

__all__ = ["EXAMPLE", "bench"]

EXAMPLE = "Example: fkdiff bench overhead --quick --json overhead.json"


def bench(
    name: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(BENCHES)}; none lists them.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="The same fields in less than a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the results and versions here.", parser=path),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help=f"Keep finished runs here and go on from it: {', '.join(sorted(RESUMABLE))}.",
            parser=path,
        ),
    ] = None,
) -> None:
    """Measure fkdiff against what it stands beside."""
    from rich.console import Console

    console = Console()
    if name is None:
        console.print(_table(["bench", "what it measures"], list(BENCHES.items())))
        return
    if name not in BENCHES:
        raise refused(f"NAME must be one of {', '.join(BENCHES)}, got {name!r}")
    if json_file is not None:
        check_file("--json", json_file, is_ours(json_file, "provenance"))
    if not 0 <= seed < 2**63:
        raise refused(f"--seed must be in [0, 2^63), got {seed:.3g}")
    if resume is not None and resume.is_dir():
        raise refused(f"--resume {resume} is a folder; name a file")
    if resume is not None and name not in RESUMABLE:
        raise refused(f"--resume can't be used with {name}, which runs in one go")
    from fkdiff.bench import BenchRefused, run_bench

    try:
        results = run_bench(name, quick, seed, resume)
    except (BenchRefused, FileNotFoundError) as error:
        raise refused(error) from None
    rows = [(path, _shown(value)) for path, value in _flat(results)]
    console.print(_table([name, ""], rows))
    if json_file is not None:
        write_whole(json_file, (json.dumps(results, indent=2) + "\n").encode())


def _flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Leaves of a nested result by their dotted path.

    >>> _flat({"ratio": {"ssp": 0.9}, "seed": 0})
    [('ratio.ssp', 0.9), ('seed', 0)]
    """
    found = []
    for key, value in tree.items():
        path = f"{above}{key}"
        found += _flat(value, path + ".") if isinstance(value, dict) else [(path, value)]
    return found


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(columns: list[str], rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    return table

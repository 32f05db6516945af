"""`fkdiff doctor`: what this installation can do, and what it lacks."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from fkdiff._version import __version__

__all__ = ["EXAMPLE", "Finding", "doctor"]

EXAMPLE = "Example: fkdiff doctor"

_PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "open_clip_torch",
    "safetensors",
    "numpy",
    "pillow",
    "matplotlib",
)
_DEVELOPERS = ("dev", "docs", "notebooks")
_MARKS = {"ok": "green", "–": "dim", "no": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line: "ok", "–" for what is optional and not here, "no" for what is broken."""

    name: str
    state: str
    mark: str = "ok"


def doctor() -> int:
    """Check versions, device, extras, models and rewards; says how to get what is missing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sections: dict[str, Callable[[], list[Finding]]] = {
        "versions": _software,
        "hardware": _hardware,
        "extras": _extras,
        "bundled models": _models,
        "rewards": _rewards,
    }
    console, broken = Console(), 0
    for title, look in sections.items():
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(width=2)
        table.add_column(min_width=20, no_wrap=True)
        table.add_column(overflow="fold")
        for finding in look():
            broken += finding.mark == "no"
            style = _MARKS[finding.mark]
            told = Text(finding.state, style="" if finding.mark == "ok" else style)
            table.add_row(Text(finding.mark, style=style), Text(finding.name), told)
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    hint = "nothing is broken; – is optional" if not broken else f"{broken} broken"
    console.print(f"\n{hint}", highlight=False)
    return 1 if broken else 0


def _software() -> list[Finding]:
    rows = [Finding("fkdiff", __version__), Finding("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            rows.append(Finding(package, f"not installed; try: pip install {package}", "no"))
            continue
        wanted = _wanted(package)
        fits = wanted is None or wanted.specifier.contains(found, prereleases=True)
        told = found if fits else f"{found}, but fkdiff needs {wanted}"
        rows.append(Finding(package, told, "ok" if fits else "no"))
    return rows


def _stated() -> list[Any]:
    """Requirements that fkdiff states; none where it isn't installed itself."""
    from packaging.requirements import Requirement

    try:
        return [Requirement(line) for line in requires("fkdiff") or ()]
    except PackageNotFoundError:
        return []


def _wanted(package: str) -> Any:
    return next((r for r in _stated() if r.name == package and r.marker is None), None)


def _hardware() -> list[Finding]:
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"{torch.cuda.get_device_name()}, {memory:.0f} GB"
    elif torch.backends.mps.is_available():
        device = "mps"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    return [Finding("device", device), Finding("threads", f"{threads} (OMP_NUM_THREADS sets it)")]


def _extras() -> list[Finding]:
    """Extras of fkdiff: installed, or what to give to pip."""
    stated = _stated()
    names = metadata("fkdiff").get_all("Provides-Extra") or [] if stated else []
    found = []
    for extra in names:
        if extra in _DEVELOPERS:
            continue
        lacking = [
            r.name
            for r in stated
            if r.marker and r.marker.evaluate({"extra": extra}) and not _here(r)
        ]
        told = f"pip install 'fkdiff[{extra}]' brings {', '.join(lacking)}"
        found.append(Finding(extra, told, "–") if lacking else Finding(extra, "installed"))
    return found


def _here(requirement: Any) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _models() -> list[Finding]:
    from fkdiff import zoo

    rows = []
    for name in zoo.MODELS:
        try:
            model = zoo.MODELS[name]
        except FileNotFoundError:
            rows.append(Finding(name, "its card is missing; install fkdiff anew", "no"))
            continue
        damaged = _damaged(model.folder)
        if damaged:
            told = f"{damaged} is missing or damaged; install fkdiff anew"
            rows.append(Finding(name, told, "no"))
        else:
            told = f"{model.megabytes:g} MB, {model.kind}, weights {zoo.digest(name)}"
            rows.append(Finding(name, told))
    return rows


def _damaged(folder: Path) -> str:
    """First weight file that isn't whole; a pointer that git left in its place isn't either."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.rglob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, "np") as weights:
                weights.keys()
        except (SafetensorError, OSError):
            return file.name
    return "" if files else "weights"


def _rewards() -> list[Finding]:
    """What each reward lacks: an argument or a download is no fault, an import that fails is."""
    from fkdiff.commands.lists import reward_rows

    return [
        Finding(
            row["name"],
            row["state"],
            "ok" if row["usable"] else "–" if row["scores"] else "no",
        )
        for row in reward_rows()
    ]

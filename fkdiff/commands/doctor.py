"""`fkdiff doctor`: what this installation can do, and what it lacks."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from fkdiff._version import __version__

__all__ = ["EXAMPLE", "doctor"]

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


def doctor() -> None:
    """Check versions, device, rewards and bundled models; names what is missing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, state, good in [*_software(), *_hardware(), *_models(), *_rewards()]:
        mark = Text("ok", style="green") if good else Text("no", style="bold red")
        table.add_row(mark, Text(name), Text(state, style="" if good else "red"))
    Console().print(table)


def _software() -> list[tuple[str, str, bool]]:
    rows = [("fkdiff", __version__, True), ("python", platform.python_version(), True)]
    for package in _PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            rows.append((package, f"not installed; try: pip install {package}", False))
            continue
        wanted = _wanted(package)
        fits = wanted is None or wanted.specifier.contains(found, prereleases=True)
        told = found if fits else f"{found}, but fkdiff needs {wanted}"
        rows.append((package, told, fits))
    return rows


def _wanted(package: str) -> Any:
    """The requirement that fkdiff states for a package; None where it isn't installed itself."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in requires("fkdiff") or ()]
    except PackageNotFoundError:
        return None
    return next((r for r in stated if r.name == package and r.marker is None), None)


def _hardware() -> list[tuple[str, str, bool]]:
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"{torch.cuda.get_device_name()}, {memory:.0f} GB"
    elif torch.backends.mps.is_available():
        device = "mps"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    return [("device", device, True), ("threads", threads, True)]


def _models() -> list[tuple[str, str, bool]]:
    from fkdiff import zoo

    rows = []
    for name in zoo.MODELS:
        try:
            model = zoo.MODELS[name]
            rows.append((f"model {name}", f"{model.megabytes:g} MB, {model.kind}", True))
        except FileNotFoundError:
            told = "its files aren't in this installation; install fkdiff anew"
            rows.append((f"model {name}", told, False))
    return rows


def _rewards() -> list[tuple[str, str, bool]]:
    from fkdiff.commands.lists import reward_rows

    return [(f"reward {row['name']}", row["state"], row["usable"]) for row in reward_rows()]

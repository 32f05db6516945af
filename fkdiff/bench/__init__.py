"""Side-by-side measurements behind `fkdiff bench`; never timed tests."""

import platform
import subprocess
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fkdiff._version import __version__

__all__ = ["BENCHES", "run_bench"]

BENCHES = {
    "overhead": "time of a steered call over the stock pipeline's, same network and batch",
    "memory": "peak memory of 64 particles in micro-batches of 8 over that of 8",
    "resampling": "time of each resampling scheme over that of the package `particles`",
    "simplex": "KL of Gumbel-softmax flows from the target, 20 to 512 letters, both schedules",
    "peptides": "designed peptides under an independent judge, at equal network evaluations",
}


def run_bench(name: str, quick: bool, seed: int) -> dict[str, Any]:
    """Run a bench; its results, with where they come from under "provenance".

    Arguments:
        name: One of `BENCHES`.
        quick: Less of the same, below a minute.
        seed: Seed of all random numbers.

    Returns:
        Nested dictionary of what JSON knows.

    Raises:
        ValueError: If there is no such bench.
    """
    if name not in BENCHES:
        raise ValueError(f"name must be one of {', '.join(BENCHES)}, got {name!r}")
    start = time.perf_counter()
    results = import_module(f"fkdiff.bench.{name}").run(quick=quick, seed=seed)
    settings = {"bench": name, "quick": quick, "seed": seed}
    seconds = round(time.perf_counter() - start, 1)
    return {**results, "provenance": {**settings, "seconds": seconds, **_provenance()}}


def _provenance() -> dict[str, Any]:
    import torch

    packages = {}
    for package in ("torch", "diffusers", "transformers", "numpy"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "fkdiff": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **packages,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, "-dirty" with changes; else None."""
    package = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(package), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", "__init__.py"):
        return None  # installed below some other project's checkout
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno")
    return f"{commit}-dirty" if commit and changes else commit

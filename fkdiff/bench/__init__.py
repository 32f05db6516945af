"""Side-by-side measurements behind `fkdiff bench`; never timed tests."""

import platform
import subprocess
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fkdiff._version import __version__

__all__ = ["BENCHES", "RESUMABLE", "BenchRefused", "run_bench"]

BENCHES = {
    "overhead": "time of a steered call over a stock one, of taps, saves and `sample`",
    "memory": "peak memory of 64 particles in micro-batches of 8 over that of 8",
    "scale": "bytes and processor time that sharing one cloud over 2 and 4 processes adds",
    "policy": "success and latency of warm starts against DDPM, DDIM and controls",
    "resampling": "time of each resampling scheme over that of the package `particles`",
    "fk": "pass rates by emoji-judge: plain, best-of-n, importance sampling, FK, its controls",
    "fk_tune": "guidance, scale and window for `fk`, chosen on the prompts `tune` alone",
    "correctors": "total variation of corrected and plain runs from quadrature, and log Z",
    "guidance": "plain and corrected guidance on emoji: distance to real scenes, pass rates",
    "world": "emoji's rewards against its judge: best-of-n, how early seen, agreement with eyes",
    "rlg": "RL guidance over its weight on emoji: reward, pass rate, distance",
    "compose": "tuning, RL guidance and steering together on emoji, at equal evaluations",
    "simplex": "KL of Gumbel-softmax flows from the target, 20 to 512 letters, both schedules",
    "alpha": "cut-outs of unseen emoji: alpha and colour by each method, on three backgrounds",
    "rgba": "cut-outs by `emoji`: cropped subjects, the judge on new backgrounds, time, memory",
    "discrete": "rare attributes of antibodies: plain, best of 8, FK by particles and draws",
    "discrete_correctors": "total variation of corrected masked models, by rate scale",
    "faults": "runs killed at random steps, and each fault of the table: what is lost",
    "peptides": "designed peptides under an independent judge, at equal network evaluations",
}


RESUMABLE = frozenset(BENCHES) - {
    "alpha", "faults", "memory", "overhead", "resampling", "scale",
}  # fmt: skip
"""Benches that keep their finished runs in a file and go on from it."""


class BenchRefused(ValueError):
    """A bench that can't start, with the remedy; nothing was measured or written."""


def run_bench(name: str, quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Run a bench; its results, with where they come from under "provenance".

    Arguments:
        name: One of `BENCHES`.
        quick: Less of the same, below a minute.
        seed: Seed of all random numbers.
        resume: File of finished runs to go on from and to add to, for those in `RESUMABLE`.

    Returns:
        Nested dictionary of what JSON knows.

    Raises:
        ValueError: If there is no such bench, or it can't start.
    """
    if name not in BENCHES:
        raise ValueError(f"name must be one of {', '.join(BENCHES)}, got {name!r}")
    if resume is not None and name not in RESUMABLE:
        raise ValueError(f"resume must be None for {name}, got {resume}; it runs in one go")
    start = time.perf_counter()
    more = {} if resume is None else {"resume": resume}
    results = import_module(f"fkdiff.bench.{name}").run(quick=quick, seed=seed, **more)
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

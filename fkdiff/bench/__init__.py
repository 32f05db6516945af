"""Side-by-side measurements behind `fkdiff bench`; never timed tests."""

import platform
import subprocess
import time
from importlib import import_module
from importlib.metadata import version
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


_IN_ONE_GO = {"alpha", "faults", "memory", "overhead", "resampling", "scale"}
RESUMABLE = frozenset(BENCHES) - _IN_ONE_GO
"""Benches that keep their finished runs in a file and go on from it."""


class BenchRefused(ValueError):
    """A bench that can't start, with the remedy; nothing was measured or written."""


def run_bench(name: str, quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Run a bench; its results, with where they come from under "provenance".

    Each bench is a module whose `run` takes these arguments.

    Arguments:
        name: One of `BENCHES`.
        quick: Less of the same, below a minute.
        seed: Seed of all random numbers.
        resume: File of finished parts to go on from and to add to, for those in `RESUMABLE`.

    Returns:
        Nested dictionary of what JSON knows.

    Raises:
        ValueError: If there is no such bench, or it can't start. `BenchRefused` and
            `FileNotFoundError` name what is missing, or that the file has other settings.
    """
    if name not in BENCHES:
        raise ValueError(f"name must be one of {', '.join(BENCHES)}, got {name!r}")
    if resume is not None and name not in RESUMABLE:
        raise ValueError(f"resume must be None for {name}, got {resume}; it runs in one go")
    start = time.perf_counter()
    more = {} if resume is None else {"resume": resume}
    results = import_module(f"fkdiff.bench.{name}").run(quick=quick, seed=seed, **more)
    seconds = round(time.perf_counter() - start, 1)
    settings = {"bench": name, "quick": quick, "seed": seed, "seconds": seconds}
    return {**results, "provenance": {**settings, **_provenance()}}


def _provenance() -> dict[str, Any]:
    import torch

    return {
        "fkdiff": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, "-dirty" with changes; else None."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    # An installed package can lie below some other project's checkout, which doesn't track it.
    tracked = [*git, "ls-files", "--error-unmatch", "__init__.py"]
    described = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        subprocess.run(tracked, **options)
        return subprocess.run(described, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

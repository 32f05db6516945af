"""Selection alone, from weights to ancestors, against PyPI's `particles`.

`particles` pins numpy below 2, so it runs in an environment of its own, in a child process that
takes turns with this one: the two times of a pair see the same state of the machine.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fkdiff.bench.tables import by_field
from fkdiff.smc import SCHEMES, ancestors

__all__ = ["run"]

_USUAL = ("multinomial", "stratified", "systematic", "residual")
# The duels of SSP are meant for clouds, not for a million particles of one prompt.
SHAPES = {"1000x64": (*_USUAL, "ssp"), "1x1000000": _USUAL}

# Answers each line "SCHEME FILE" with the seconds of a selection for every row: `particles` has
# no batch axis. The first answer includes the compilation of its loops.
CHILD = """
import sys, time
import numpy as np
from particles import resampling
np.ones(4_000_000)
weights = {}
for line in sys.stdin:
    scheme, file = line.split()
    if file not in weights:
        weights[file] = np.load(file)
    start = time.perf_counter()
    for row in weights[file]:
        resampling.resampling(scheme, row)
    print(time.perf_counter() - start, flush=True)
"""


def run(quick: bool = False, seed: int = 0) -> dict[str, Any]:
    """Time each scheme here and in `particles`, in interleaved pairs after a warm-up.

    Both return ancestors in ascending order. Clouds keep survivors in their slots, which
    `particles` doesn't do: `in_slots` are the ratios with ours doing that as well.

    Both processes first free 32 MB. That makes the C library keep what is freed later, as in any
    process that has held a model; otherwise much of the time at a million goes to page faults.

    Arguments as for `run_bench`; the weights are softmax of standard normal numbers.

    Returns:
        Fields `ratio` (ours over theirs, median over pairs), `ours_ms`, `theirs_ms` (medians) and
        `in_slots`, each by scheme and shape.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.ones(4_000_000, dtype=torch.float64)
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, _particles() as theirs:
        for shape, schemes in SHAPES.items():
            prompts, particles = map(int, shape.split("x"))
            log_w = torch.randn(prompts, particles, generator=generator, dtype=torch.float64)
            weights, file = log_w.softmax(1), Path(folder) / f"{shape}.npy"
            np.save(file, weights.numpy())
            for scheme in schemes:
                ours = partial(_ours, scheme, weights, generator)
                times = [
                    (ours(in_slots=False), theirs(scheme, file), ours(in_slots=True))
                    for _ in range(15 if quick else 61)
                ]
                table.setdefault(scheme, {})[shape] = _medians(times[5:])
    return by_field({scheme: by_field(shapes) for scheme, shapes in table.items()})


def _ours(scheme: str, weights: torch.Tensor, generator: Any, *, in_slots: bool) -> float:
    start = time.perf_counter()
    ancestors(SCHEMES[scheme](weights, generator), in_slots=in_slots)
    return time.perf_counter() - start


def _medians(times: list[tuple[float, float, float]]) -> dict[str, float]:
    values = {
        "ratio": [ours / theirs for ours, theirs, _ in times],
        "ours_ms": [1000 * ours for ours, _, _ in times],
        "theirs_ms": [1000 * theirs for _, theirs, _ in times],
        "in_slots": [slots / theirs for _, theirs, slots in times],
    }
    return {field: round(statistics.median(found), 3) for field, found in values.items()}


@contextmanager
def _particles() -> Iterator[Callable[[str, Path], float]]:
    """A child process that has imported `particles`, as a function from a job to its seconds."""
    command, pipe = [str(_python()), "-c", CHILD], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        stdin, stdout = child.stdin, child.stdout
        assert stdin is not None and stdout is not None

        def seconds(scheme: str, file: Path) -> float:
            stdin.write(f"{scheme} {file}\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                raise RuntimeError("the process with `particles` ended; its message is above")
            return float(answer)

        yield seconds
        stdin.close()  # ends its loop


def _python() -> Path:
    """Interpreter of the environment that `make .venv` creates beside `.venv`."""
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (python := folder / ".venv-particles" / "bin" / "python").exists():
            return python
    raise FileNotFoundError(
        "the package `particles` has no environment here; create it with `make .venv` "
        "in a checkout of fkdiff, and run the bench there"
    )

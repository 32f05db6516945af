"""What many particles need: peak memory of 64 in micro-batches of 8 over that of 8."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from fkdiff import Tilt, as_reward, steer
from fkdiff.bench.emoji_arms import stock_emoji

__all__ = ["growth", "in_process", "run"]

MICRO_BATCH = 8


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Compare peak minus after-load memory in separate processes; arguments as for `run_bench`.

    Returns:
        `ratio` (64 particles with `micro_batch=8` over 8 particles), the megabytes of each
        (medians) and of each repeat.
    """
    steps = 4 if quick else 30
    repeats: dict[str, list[float]] = {"8": [], "64": []}
    # glibc keeps more or less of what was freed, by chance; returned at once, the peak repeats.
    frugal = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "32768"}
    for _ in range(1 if quick else 3):
        for particles, micro_batch in ((8, None), (64, MICRO_BATCH)):
            arguments = (particles, micro_batch, steps, seed)
            repeats[str(particles)].append(in_process(__name__, arguments, **frugal))
    megabytes = {name: statistics.median(values) for name, values in repeats.items()}
    ratio = megabytes["64"] / megabytes["8"]
    return {"ratio": ratio, "megabytes": megabytes, "repeats": repeats, "steps": steps}


def in_process(module: str, arguments: tuple[Any, ...], **environment: str) -> float:
    """Runs `python -m MODULE ARGUMENTS`, these as JSON; returns the number in its last line."""
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    env = {**os.environ, **environment}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return float(done.stdout.splitlines()[-1])


def growth(draw: Callable[[int], None], particles: int) -> float:
    """Peak of a call of K particles over the memory in use after a call of one, MB (Linux)."""
    draw(1)  # imports and buffers of the first call belong to loading
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forgets the peak so far
    before = _status("VmRSS")
    draw(particles)
    return _status("VmHWM") - before


def _status(key: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) / 1024


def _child(particles: int, micro_batch: int | None, steps: int, seed: int) -> float:
    pipe = stock_emoji()
    bright = as_reward(lambda x: x.flatten(1).mean(dim=1), name="brightness")

    def draw(k: int) -> None:
        options = {"micro_batch": None if k == 1 else micro_batch, "select": "all", "seed": seed}
        steered = steer(pipe, Tilt(bright), particles=k, **options)
        steered("a cat on a blue background", num_inference_steps=steps)

    return growth(draw, particles)


if __name__ == "__main__":
    print(_child(*json.loads(sys.argv[1])))

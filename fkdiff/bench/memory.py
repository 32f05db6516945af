"""What many particles need: peak memory of 64 in micro-batches of 8 over that of 8."""

import json
import os
import statistics
import subprocess
import sys
from typing import Any

__all__ = ["peak", "reset_peak", "run"]

MICRO_BATCH = 8


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Compare peak minus after-load memory in separate processes.

    Arguments:
        quick: 4 steps instead of 30, once instead of three times.
        seed: Seed of the noise.

    Returns:
        `ratio` (64 particles with `micro_batch=8` over 8 particles), the megabytes of each
        (medians) and of each repeat.
    """
    steps = 4 if quick else 30
    repeats: dict[str, list[float]] = {"8": [], "64": []}
    for _ in range(1 if quick else 3):
        repeats["8"].append(_measure(MICRO_BATCH, None, steps, seed))
        repeats["64"].append(_measure(64, MICRO_BATCH, steps, seed))
    megabytes = {name: statistics.median(values) for name, values in repeats.items()}
    return {
        "ratio": megabytes["64"] / megabytes["8"],
        "megabytes": megabytes,
        "repeats": repeats,
        "steps": steps,
    }


def _measure(particles: int, micro_batch: int | None, steps: int, seed: int) -> float:
    arguments = json.dumps([particles, micro_batch, steps, seed])
    command = [sys.executable, "-m", "fkdiff.bench.memory", arguments]
    # glibc keeps more or less of what was freed, by chance; returned at once, the peak repeats.
    frugal = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "32768"}
    environment = {**os.environ, **frugal}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def _child(particles: int, micro_batch: int | None, steps: int, seed: int) -> float:
    from diffusers import DiffusionPipeline

    from fkdiff import Tilt, as_reward, steer, zoo

    pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    bright = as_reward(lambda x: x.flatten(1).mean(dim=1), name="brightness")

    def sample(k: int, m: int | None) -> None:
        steered = steer(pipe, Tilt(bright), particles=k, micro_batch=m, select="all", seed=seed)
        steered("a cat on a blue background", num_inference_steps=steps)

    sample(1, None)  # imports and buffers of the first call belong to loading
    before = reset_peak()
    sample(particles, micro_batch)
    return peak() - before


def reset_peak() -> float:
    """Forget the peak so far (Linux); returns the memory in use, in MB."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def peak() -> float:
    """Largest memory in use since the last `reset_peak` (Linux), in MB."""
    return _status("VmHWM")


def _status(key: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(_child(*json.loads(sys.argv[1])))

"""What steering adds to a stock call: the same network, batch and scheduler in every arm."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from fkdiff.bench.added_time import keep_growth, narrow_pipe, sample_ratio, tap_ms

__all__ = ["run"]

PARTICLES, STEPS = 8, 30


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Time the stock call, a pass-through run and FK steering, in interleaved triples.

    The arms share `emoji`, 8 particles, 30 steps and DDIM with eta 1; the reward reads latents
    and costs nothing, so what is left is the machinery: taps, weights, resampling.

    Arguments:
        quick: 5 triples instead of 15.
        seed: Seed of the noise.

    Returns:
        `fk_ratio` and `passthrough_ratio` (medians of the triples' ratios to the stock call), the
        median seconds of each arm, and with networks that cost next to nothing `tap_ms`
        (milliseconds that a tap adds to a step of 8 particles), `keep_growth` (time of a save at
        400 steps over that at 50) and `sample_ratio.K` (`sample` over a plain loop).
    """
    arms = _arms(seed)
    for call in arms.values():  # the first calls allocate and choose kernels
        call()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(5 if quick else 15):
        for name, call in arms.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    pairs, pipe = 5 if quick else 15, narrow_pipe()
    return {
        "fk_ratio": _ratio(seconds["fk"], seconds["stock"]),
        "passthrough_ratio": _ratio(seconds["passthrough"], seconds["stock"]),
        "tap_ms": tap_ms(pipe, seed, pairs),
        "keep_growth": keep_growth(pipe, seed),
        "sample_ratio": {f"K{k}": sample_ratio(k, seed, pairs) for k in (1000, 100_000)},
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "particles": PARTICLES,
        "steps": STEPS,
        "triples": len(seconds["stock"]),
    }


def _ratio(arm: list[float], base: list[float]) -> float:
    return statistics.median(arm) / statistics.median(base)


def _arms(seed: int) -> dict[str, Callable[[], Any]]:
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline

    from fkdiff import Tilt, as_reward, steer, zoo
    from fkdiff.processes.streams import slot_generators

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "a cat on a blue background", "num_inference_steps": STEPS, "eta": 1.0}
    free = as_reward(lambda z: z.flatten(1).mean(dim=1), name="free", inputs="latents")

    def stock() -> Any:
        generators: list[torch.Generator] = slot_generators(seed, 1, PARTICLES)
        return pipe(**call, num_images_per_prompt=PARTICLES, generator=generators)

    def steered(*terms: Any) -> Callable[[], Any]:
        kept = steer(pipe, *terms, particles=PARTICLES, select="all", seed=seed)
        return lambda: kept(**call)

    # A large scale makes resampling fire often: the dear case.
    return {"stock": stock, "passthrough": steered(), "fk": steered(Tilt(free, scale=100.0))}

"""What a tap, a save and a step of `sample` take, where networks cost next to nothing."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

__all__ = ["keep_growth", "narrow_pipe", "sample_ratio", "tap_ms"]

PARTICLES, STEPS = 8, 30


def narrow_pipe() -> Any:
    """The bundled `emoji` with a small untrained network, so that what is around it shows."""
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

    from fkdiff import zoo

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    config = dict(pipe.unet.config) | {"block_out_channels": (8, 16, 16), "norm_num_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = UNet2DConditionModel.from_config(config)
        pipe.register_modules(unet=network.eval())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tap_ms(pipe: Any, seed: int, repeats: int) -> float:
    """Milliseconds that a pass-through run adds to a step of the stock call, 8 particles.

    Arguments:
        pipe: Of `narrow_pipe`.
        seed: Seed of the noise.
        repeats: Interleaved pairs, whose differences' median it is.
    """
    from fkdiff import steer
    from fkdiff.processes.streams import slot_generators

    call = {"prompt": "a cat", "num_inference_steps": STEPS, "eta": 1.0, "output_type": "latent"}
    kept = steer(pipe, particles=PARTICLES, select="all", seed=seed)

    def stock() -> None:
        generators = slot_generators(seed, 1, PARTICLES)
        pipe(**call, num_images_per_prompt=PARTICLES, generator=generators)

    pairs = _pairs(lambda: kept(**call), stock, repeats)
    return 1e3 * statistics.median(a - b for a, b in pairs) / STEPS


def keep_growth(pipe: Any, seed: int, lengths: tuple[int, int] = (50, 400)) -> float:
    """Time of a save in a long run over that in a short one, on average over its steps.

    Arguments:
        pipe: Of `narrow_pipe`.
        seed: Seed of the noise.
        lengths: Steps of the two runs.
    """
    from fkdiff import Tilt, as_reward, steer
    from fkdiff.taps.snapshots import Keeper

    free = as_reward(lambda z: z.flatten(1).mean(dim=1), name="free", inputs="latents")
    spent: list[float] = []
    usual = Keeper.keep

    def timed(keeper: Any, *arguments: Any) -> None:
        start = time.perf_counter()
        usual(keeper, *arguments)
        spent.append(time.perf_counter() - start)

    means = []
    for steps in lengths:
        spent.clear()
        with tempfile.TemporaryDirectory() as folder, patch.object(Keeper, "keep", timed):
            kept = steer(pipe, Tilt(free), particles=4, seed=seed, keep=folder)
            kept("a cat", num_inference_steps=steps, eta=1.0, output_type="latent")
        means.append(sum(spent) / steps)
    return means[1] / means[0]


def sample_ratio(particles: int, seed: int, repeats: int) -> float:
    """Time of `sample` over that of a plain loop of the same steps, a mixture in one dimension.

    Arguments:
        particles: K.
        seed: Seed of the noise.
        repeats: Interleaved pairs, whose ratios' median it is.
    """
    import torch

    from fkdiff import Grid, sample

    grid = Grid.vp(20, prediction="score")

    def score(x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """Score of two normal laws at -1 and 1, of standard deviation .2."""
        variance = 0.04 * alpha**2 + sigma**2
        return (alpha * (2 * (2 * alpha * x / variance).sigmoid() - 1) - x) / variance

    def plain() -> None:
        generator = torch.Generator().manual_seed(seed)
        x = grid.levels[0][1] * torch.randn(particles, 1, generator=generator)
        for path in grid.transitions():
            noise = -path.sigma * score(x, path.alpha, path.sigma)
            x0 = (x - path.sigma * noise) / path.alpha
            variance = path.sigma**2 - (path.alpha / path.alpha_next * path.sigma_next) ** 2
            std = path.sigma_next / path.sigma * math.sqrt(max(variance, 0.0))
            rest = math.sqrt(max(path.sigma_next**2 - std**2, 0.0))
            x = path.alpha_next * x0 + rest * noise
            x = x + std * torch.randn(particles, 1, generator=generator)

    def ours() -> None:
        sample(score, grid, shape=(1,), particles=particles, seed=seed)

    return statistics.median(a / b for a, b in _pairs(ours, plain, repeats))


def _pairs(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> list[tuple[float, float]]:
    """Seconds of two calls in turn, after one of each that isn't counted."""
    calls, found = (one, other), []
    for number in range(repeats + 1):
        seconds = []
        for call in calls:
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        if number:
            found.append((seconds[0], seconds[1]))
    return found

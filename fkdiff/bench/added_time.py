"""What a tap, a save and a step of `sample` take, where networks cost next to nothing."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from fkdiff import Grid, Tilt, as_reward, sample, steer
from fkdiff.bench.emoji_arms import stock_emoji
from fkdiff.processes.streams import slot_generators
from fkdiff.taps.snapshots import Keeper

__all__ = ["arms", "in_turn", "keep_growth", "narrow_pipe", "sample_ratio", "tap_ms"]

PARTICLES, STEPS = 8, 30
FREE = as_reward(lambda z: z.flatten(1).mean(dim=1), name="free", inputs="latents")


def arms(pipe: Any, seed: int, **call: Any) -> dict[str, Callable[[], Any]]:
    """The stock call of 8 particles by stochastic DDIM, a pass-through run, and FK steering."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    call |= {"num_inference_steps": STEPS, "eta": 1.0}

    def stock() -> Any:
        generators = slot_generators(seed, 1, PARTICLES)
        return pipe(**call, num_images_per_prompt=PARTICLES, generator=generators)

    def steered(*terms: Any) -> Callable[[], Any]:
        kept = steer(pipe, *terms, particles=PARTICLES, select="all", seed=seed)
        return lambda: kept(**call)

    # A large scale makes resampling fire often: the dear case.
    return {"stock": stock, "passthrough": steered(), "fk": steered(Tilt(FREE, scale=100.0))}


def in_turn(calls: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """Seconds of calls in turn, a list of each round; a first round only warms up."""
    return [[_seconds(call) for call in calls] for _ in range(repeats + 1)][1:]


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def narrow_pipe() -> Any:
    """The bundled `emoji` with a small untrained network, so that what is around it shows."""
    pipe = stock_emoji()
    config = dict(pipe.unet.config) | {"block_out_channels": (8, 16, 16), "norm_num_groups": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: Any = UNet2DConditionModel.from_config(config)
        pipe.register_modules(unet=network.eval())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


def tap_ms(pipe: Any, seed: int, repeats: int) -> float:
    """Milliseconds that a pass-through run adds to a step of the stock call, 8 particles.

    It is the median of the differences of interleaved pairs.
    """
    calls = arms(pipe, seed, prompt="a cat", output_type="latent")
    pairs = in_turn((calls["passthrough"], calls["stock"]), repeats)
    return 1e3 * statistics.median(ours - stock for ours, stock in pairs) / STEPS


def keep_growth(pipe: Any, seed: int, lengths: tuple[int, int] = (50, 400)) -> float:
    """Time of a save in a long run over that in a short one, on average over its saves."""
    spent: list[float] = []
    usual = Keeper.keep

    def timed(keeper: Any, *arguments: Any) -> None:
        spent.append(_seconds(lambda: usual(keeper, *arguments)))

    means = []
    for steps in lengths:
        spent.clear()
        with tempfile.TemporaryDirectory() as folder, patch.object(Keeper, "keep", timed):
            kept = steer(pipe, Tilt(FREE), particles=4, seed=seed, keep=folder)
            kept("a cat", num_inference_steps=steps, eta=1.0, output_type="latent")
        means.append(statistics.fmean(spent))
    return means[1] / means[0]


def sample_ratio(particles: int, seed: int, repeats: int) -> float:
    """Time of `sample` over that of a plain loop of the same steps, a mixture in one dimension.

    It is the median of the ratios of interleaved pairs.
    """
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

    return statistics.median(a / b for a, b in in_turn((ours, plain), repeats))

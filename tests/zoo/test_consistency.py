"""Consistency distillation: its targets against the exact map of a Gaussian; it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fkdiff.zoo.consistency import ConsistencyTask, boundary, moved, student
from fkdiff.zoo.denoiser import scheduler
from fkdiff.zoo.latents import LatentData
from fkdiff.zoo.loop import Draws, Fit
from tests.tiny import build

MEAN, SPREAD = 0.5, 0.7
ALPHAS = scheduler().alphas_cumprod.double().sqrt()


def levels(times: Tensor) -> tuple[Tensor, Tensor]:
    alpha = torch.where(times < 0, torch.ones((), dtype=torch.float64), ALPHAS[times.clamp(min=0)])
    return alpha, (1 - alpha**2).sqrt()


def denoised(x: Tensor, times: Tensor) -> Tensor:
    """E[x0 | x] of N(MEAN, SPREAD^2)."""
    alpha, sigma = (level[:, None] for level in levels(times))
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def end(x: Tensor, times: Tensor) -> Tensor:
    """Where the deterministic path of x ends, in closed form."""
    alpha, sigma = (level[:, None] for level in levels(times))
    return MEAN + SPREAD * (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2).sqrt()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_stays_on_the_path(sign: int) -> None:
    """The state one step further ends where the state does; a step the other way doesn't."""
    times = torch.arange(19, 1000, 20)
    alpha, sigma = levels(times)
    x = alpha[:, None] * MEAN + (alpha**2 * SPREAD**2 + sigma**2).sqrt()[:, None]
    x0 = x + sign * (denoised(x, times) - x)
    later = moved(x, x0, levels(times), levels(times - 20))
    off = float((end(later, times - 20) - end(x, times)).abs().max())
    assert (off < 0.02) == (sign == 1)


def test_the_clean_end_is_what_it_is() -> None:
    x, times = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.full((4,), -1)
    assert torch.equal(student(x, times, lambda *_: torch.full_like(x, torch.nan).nan_to_num()), x)
    keep, move = boundary(torch.tensor([999]))
    assert keep < 1e-8 and abs(move - 1) < 1e-6


def test_the_distance_falls_and_a_resumed_run_repeats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = LatentData(
        rng.normal(size=(20, 4, 8, 8)).astype(np.float16), rng.integers(0, 50, (20, 77)), 1.0
    )

    def task(folder: Path, steps: int) -> ConsistencyTask:
        fit = Fit(steps=steps, lr=1e-3, warmup=1, hold=1.0, weight_decay=0.0)
        return ConsistencyTask(build("sd").pipe, data, fit, folder, batch=8)

    def distance(made: ConsistencyTask) -> float:
        with torch.no_grad():
            return sum(float(made.loss(0, Draws(1, run))) for run in range(6))

    made = task(tmp_path / "whole", 20)
    before = distance(made)
    losses = made.trainer.run()
    assert distance(made) < before
    start = task(tmp_path / "parts", 20).trainer.run(until=2)
    second = task(tmp_path / "parts", 20).trainer
    second.resume()
    assert start + second.run(until=4) == losses[:4]

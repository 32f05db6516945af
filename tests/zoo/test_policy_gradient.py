"""Policy gradient: its minimum is the tilted law's score, a resumed run repeats, it loads."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fkdiff.zoo.loop import Draws, Fit
from fkdiff.zoo.policy_gradient import (
    Policy,
    PolicyGradientTask,
    advantages,
    export_adapter,
    surrogate,
)
from tests.tiny import build

POLICY = Policy(beta=1.0, groups=4, samples=4, steps=2, guidance=2.0, batch=16)


def bright(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(pictures) == len(prompts)
    return 40 * (pictures.mean((1, 2, 3)) - 0.5)


def task(folder: Path, steps: int, reward=bright, lr: float = 1e-4) -> PolicyGradientTask:
    fit = Fit(steps=steps, lr=lr, warmup=1, hold=1.0, weight_decay=0.0)
    return PolicyGradientTask(build("sd").pipe, reward, ["a cat", "a dog"], fit, folder, POLICY)


def fitted(run: int, sign: int) -> Tensor:
    """(a, b) of the prediction a x + b with the least surrogate at one noise level.

    Reference N(0, 1) in one dimension, reward x, beta .8: the optimum is N(1 / .8, 1).
    """
    generator = torch.Generator().manual_seed(run)
    x0, noise = torch.randn(2, 20_000, 1, generator=generator, dtype=torch.float64)
    x = 0.6 * x0 + 0.8 * noise
    weight = advantages(sign * x0[:, 0], beta=0.8) + 1
    found = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    reference = torch.zeros_like(x)  # E[v | x] of a standard normal

    def value(ab: Tensor) -> Tensor:
        return surrogate(ab[0] * x + ab[1], reference, 0.6 * noise - 0.8 * x0, weight)

    # One step of Newton is exact, since the surrogate is quadratic.
    slope = torch.autograd.functional.jacobian(value, found)
    curvature = torch.autograd.functional.hessian(value, found)
    return -torch.linalg.solve(curvature, slope)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_least_surrogate_is_the_optimum_of_reward_and_kl(sign: int) -> None:
    """v of N(m, 1) is -m sigma / 1 at every x; a reward turned over is seen."""
    fits = torch.stack([fitted(run, sign) for run in range(20)])
    # x0 | x has mean m + alpha (x - alpha m), so that v = (alpha x - E[x0 | x]) / sigma.
    m, alpha, sigma = 1 / 0.8, 0.6, 0.8
    exact = torch.tensor([0.0, -(1 - alpha**2) * m / sigma], dtype=torch.float64)
    z = (fits.mean(0) - exact) / (fits.std(0) / len(fits) ** 0.5)
    assert (float(z.abs().max()) < 4.5) == (sign == 1), z


def test_tuning_favours_what_was_better(tmp_path: Path) -> None:
    """The surrogate of an untuned adapter is 0; it falls, but not for a reward turned over."""
    made = task(tmp_path, 60, lr=1e-3)
    made.trainer.run()
    with torch.no_grad():
        favoured = [float(made.loss(0, Draws(1, run))) for run in range(40)]
        made.drawn["weight"] = 2 - made.drawn["weight"]
        turned = [float(made.loss(0, Draws(1, run))) for run in range(40)]
    assert sum(favoured) < 0 < sum(turned)


def test_resume_is_exact_and_the_adapter_loads(tmp_path: Path) -> None:
    whole = task(tmp_path / "whole", 2).trainer
    losses = whole.run()
    start = task(tmp_path / "parts", 2).trainer.run(until=1)
    second = task(tmp_path / "parts", 2).trainer
    second.resume()
    assert start + second.run() == losses
    export_adapter(whole.averaged(), tmp_path / "lora")
    pipe, call = build("sd").pipe, {"height": 16, "width": 16, "num_inference_steps": 2}

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe("a cat", output_type="pt", generator=generator, **call).images

    before = draw()
    pipe.load_lora_weights(tmp_path / "lora", adapter_name="emoji-rl")
    assert not torch.equal(draw(), before)
    pipe.disable_lora()
    assert torch.equal(draw(), before)

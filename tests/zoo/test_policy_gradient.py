"""Policy gradient: its gradient is exact, a resumed run repeats, the adapter loads."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fkdiff.zoo.loop import Draws, Fit
from fkdiff.zoo.policy_gradient import PathwiseTask, Policy, PolicyGradientTask, export_adapter
from tests.tiny import build

POLICY = Policy(beta=0.01, prompts=2, samples=4, steps=3, branches=2, guidance=2.0)


def bright(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(pictures) == len(prompts)
    return 40 * (pictures.mean((1, 2, 3)) - 0.5)


def task(
    folder: Path,
    steps: int,
    policy: Policy = POLICY,
    reward=bright,
    lr: float = 1e-4,
    kind=PolicyGradientTask,
) -> PolicyGradientTask:
    fit = Fit(steps=steps, lr=lr, warmup=1, hold=1.0, weight_decay=0.0)
    return kind(build("sd").pipe, reward, ["a cat", "a dog"], fit, folder, policy)


def course(folder: Path, key: str) -> np.ndarray:
    lines = (folder / "rewards.jsonl").read_text().splitlines()
    return np.array([json.loads(line)[key] for line in lines])


class FromOneState(Draws):
    """Random numbers of a step of the training, but for the noise that a picture starts from."""

    def __init__(self, step: int, start: Tensor) -> None:
        super().__init__(0, step)
        self.start: Tensor | None = start

    def normal(self, *shape: int) -> Tensor:
        start, self.start = self.start, None
        return super().normal(*shape) if start is None else start


def moved(made: PolicyGradientTask) -> None:
    """Leave the reference, where every gradient of the KL is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.trainer.modules.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)


def gradient(made: PolicyGradientTask, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(made.trainer.modules.parameters()))
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_exact_where_the_reward_is_linear(tmp_path: Path, sign: int) -> None:
    """E[c . x'] of a Gaussian step has the gradient of c . mean; the wrong sign is seen."""
    policy = replace(POLICY, beta=0.2, prompts=1, branches=1, window=0.01, samples=16)
    made = task(tmp_path, 1, policy)
    moved(made)
    made.prompts = made.prompts[:1]
    c, start = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    made._rewards = lambda drawn, step, rows: sign * (drawn * c).flatten(2).sum(2)
    kernel, _, kl = made._branch(0, torch.tensor([0]), FromOneState(0, start))
    exact = gradient(made, policy.beta * kl.sum() - (kernel.mean * c).sum())
    way = exact / exact.norm()
    found = [gradient(made, made.loss(0, FromOneState(run, start))) @ way for run in range(40)]
    errors = torch.stack(found) - exact.norm()
    z = float(errors.mean() / (errors.std() / len(errors) ** 0.5))
    assert (abs(z) < 4.5) == (sign == 1), z


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_along_a_trajectory_raises_its_reward(tmp_path: Path, sign: int) -> None:
    """By as much as its length says, on the very noise that it was taken on."""
    made = task(tmp_path, 1, replace(POLICY, samples=2), bright, kind=PathwiseTask)
    moved(made)
    parameters = list(made.trainer.modules.parameters())

    def value() -> Tensor:
        for p in parameters:
            p.grad = None
        made.loss(0, Draws(0, 0)).backward()
        lines = course(tmp_path, "reward"), course(tmp_path, "kl")
        return torch.tensor(POLICY.beta * lines[1][-1] - lines[0][-1])

    before = value()
    gradients = [p.grad.clone() for p in parameters]
    square = sum(float(g.square().sum()) for g in gradients)
    step = 1e-3 / square
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p -= sign * step * g
    change = float(value() - before)
    assert (abs(change / 1e-3 + 1) < 0.1) == (sign == 1), change


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


def test_where_no_reward_differs_the_kl_pulls_back(tmp_path: Path) -> None:
    made = task(tmp_path, 5, replace(POLICY, beta=1.0, branches=1, window=0.01),
                lambda pictures, prompts: torch.zeros(len(pictures)), lr=1e-2)  # fmt: skip
    moved(made)
    made.trainer.run(until=5)
    kl = course(tmp_path, "kl")
    assert kl[-2:].mean() < 0.9 * kl[:2].mean()

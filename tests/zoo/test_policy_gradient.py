"""Policy gradient: the reward rises, the KL holds, a resumed run repeats, the adapter loads."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fkdiff.zoo.loop import Fit
from fkdiff.zoo.policy_gradient import Policy, PolicyGradientTask, export_adapter
from tests.tiny import build

POLICY = Policy(beta=0.01, prompts=2, samples=6, steps=4, visited=2, guidance=2.0, rows=8)


def bright(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(pictures) == len(prompts)
    return 40 * (pictures.mean((1, 2, 3)) - 0.5)


def task(folder: Path, steps: int, policy: Policy = POLICY, reward=bright) -> PolicyGradientTask:
    fit = Fit(steps=steps, lr=2e-2, warmup=1, hold=1.0, weight_decay=0.0)
    return PolicyGradientTask(build("sd").pipe, reward, ["a cat", "a dog"], fit, folder, policy)


def course(folder: Path, key: str) -> np.ndarray:
    lines = (folder / "rewards.jsonl").read_text().splitlines()
    return np.array([json.loads(line)[key] for line in lines])


def test_reward_rises_and_the_kl_holds_it(tmp_path: Path) -> None:
    free, held = tmp_path / "free", tmp_path / "held"
    task(free, 24).trainer.run()
    task(held, 24, Policy(**{**vars(POLICY), "beta": 1000.0})).trainer.run()
    rewards = {folder: course(folder, "reward") for folder in (free, held)}
    gain = {folder: found[-8:].mean() - found[:4].mean() for folder, found in rewards.items()}
    assert gain[free] > 4 * abs(gain[held])
    assert course(free, "kl")[-8:].mean() > 10 * course(held, "kl")[-8:].mean()


def test_resume_is_exact_and_the_adapter_loads(tmp_path: Path) -> None:
    whole = task(tmp_path / "whole", 4).trainer
    losses = whole.run()
    start = task(tmp_path / "parts", 4).trainer.run(until=2)
    second = task(tmp_path / "parts", 4).trainer
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


def test_the_gradient_is_that_of_kl_and_reward(tmp_path: Path) -> None:
    """Without a reward that differs and away from the reference, only the KL pulls: back."""
    made = task(tmp_path, 30, Policy(**{**vars(POLICY), "beta": 1.0}),
                lambda pictures, prompts: torch.zeros(len(pictures)))  # fmt: skip
    with torch.no_grad():
        for p in made.trainer.modules.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    made.trainer.run(until=15)
    kl = course(tmp_path, "kl")
    assert kl[-3:].mean() < 0.7 * kl[:3].mean()

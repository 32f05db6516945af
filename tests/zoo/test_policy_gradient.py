"""Policy gradient: the reward rises, the KL holds, a resumed run repeats, the adapter loads."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fkdiff.zoo.loop import Draws, Fit
from fkdiff.zoo.policy_gradient import Policy, PolicyGradientTask, export_adapter
from tests.tiny import build

POLICY = Policy(beta=0.01, prompts=2, samples=4, steps=3, visited=2, guidance=2.0, rows=8)


def bright(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(pictures) == len(prompts)
    return 40 * (pictures.mean((1, 2, 3)) - 0.5)


def task(
    folder: Path, steps: int, policy: Policy = POLICY, reward=bright, lr: float = 1e-4
) -> PolicyGradientTask:
    fit = Fit(steps=steps, lr=lr, warmup=1, hold=1.0, weight_decay=0.0)
    return PolicyGradientTask(build("sd").pipe, reward, ["a cat", "a dog"], fit, folder, policy)


def course(folder: Path, key: str) -> np.ndarray:
    lines = (folder / "rewards.jsonl").read_text().splitlines()
    return np.array([json.loads(line)[key] for line in lines])


def test_an_update_makes_what_was_better_likelier(tmp_path: Path) -> None:
    """On the very trajectories that it learnt from, and so for the reward turned over too."""
    for sign in (1, -1):
        made = task(
            tmp_path / str(sign), 2, reward=lambda x, prompts, s=sign: s * bright(x, prompts)
        )
        made.policy = Policy(**{**vars(POLICY), "beta": 0.0})
        draws = Draws(0, 0, 0)
        chosen = draws.rng.choice(2, POLICY.prompts)
        rows = torch.from_numpy(np.repeat(chosen, POLICY.samples))
        states, pictures = made._draw(rows, draws)
        group = bright(pictures, rows.tolist()).reshape(POLICY.prompts, POLICY.samples)
        better = (group - group.mean(1, keepdim=True)).flatten()

        def chances(made=made, states=states, rows=rows) -> Tensor:
            with torch.no_grad():
                steps = range(POLICY.steps - 1)
                found = [
                    made._step_terms(states, i, rows, torch.arange(len(rows)))[0] for i in steps
                ]
            return torch.stack(found).sum(0)

        before = chances()
        made.trainer.run(until=1)
        assert sign * float((better * (chances() - before)).sum()) > 0


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


def test_the_gradient_is_that_of_kl_and_reward(tmp_path: Path) -> None:
    """Without a reward that differs and away from the reference, only the KL pulls: back."""
    made = task(tmp_path, 5, Policy(**{**vars(POLICY), "beta": 1.0}),
                lambda pictures, prompts: torch.zeros(len(pictures)), lr=1e-2)  # fmt: skip
    with torch.no_grad():
        for p in made.trainer.modules.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    made.trainer.run(until=5)
    kl = course(tmp_path, "kl")
    assert kl[-2:].mean() < 0.9 * kl[:2].mean()

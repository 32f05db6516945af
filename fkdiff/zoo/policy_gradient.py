"""Recipe of `emoji-rl`: a LoRA of `emoji` tuned by policy gradient on a reward, held by a KL.

The sampler's steps are Gaussian, so that a picture is a trajectory of actions with known
log-probabilities (DDPO, Black et al., 2023, arXiv 2305.13301; groups of one prompt as in
Flow-GRPO, Liu et al., 2025, arXiv 2505.05470).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fkdiff.processes import Gaussian, Kernel, predict_x0, sde_step
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["Policy", "PolicyGradientTask", "export_adapter"]

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
_RANK = 16
_NAME = "tuned"

PictureReward = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures (n, 3, h, w) in [0, 1], n prompts) -> n calibrated rewards."""


@dataclass(frozen=True)
class Policy:
    r"""What is tuned, and how hard.

    Maximises $E[\rho(x_0)] - \beta\, \mathrm{KL}(p_\theta \| p_{\mathrm{ref}})$ over the law
    of the whole trajectory, whose optimum is $p_{\mathrm{ref}} e^{\rho / \beta}$.

    Arguments:
        beta: Strength of the KL, per standard deviation of the reward.
        prompts: Prompts a step.
        samples: Pictures of each prompt, at least 2: each is judged against the others.
        steps: Denoising steps of a picture.
        visited: Steps of a picture that are learnt from, at random.
        guidance: Guidance scale while drawing and learning.
        rows: Rows per backward pass.
    """

    beta: float = 0.25
    prompts: int = 8
    samples: int = 8
    steps: int = 12
    visited: int = 4
    guidance: float = 2.0
    rows: int = 64

    @property
    def pictures(self) -> int:
        """Pictures a step."""
        return self.prompts * self.samples


class PolicyGradientTask:
    """Draws pictures, judges each against its group, and makes the better ones' steps likelier.

    Arguments:
        pipe: The pipeline; its U-Net gets the adapter.
        reward: What is raised.
        prompts: What is drawn.
        fit: Settings of the run.
        folder: Where the checkpoint goes, and `rewards.jsonl`.
        policy: Settings of the tuning.
    """

    def __init__(
        self,
        pipe: Any,
        reward: PictureReward,
        prompts: Sequence[str],
        fit: Fit,
        folder: Path,
        policy: Policy = Policy(),  # noqa: B008  # frozen
    ) -> None:
        from peft import LoraConfig

        torch.manual_seed(fit.seed)
        self.pipe, self.reward, self.prompts, self.policy = pipe, reward, list(prompts), policy
        self.unet: Any = pipe.unet
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        config = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_TARGETS))
        self.unet.add_adapter(config, adapter_name=_NAME)
        weights = {n.replace(".", "/"): p for n, p in self.unet.named_parameters() if "lora_" in n}
        self.paths = _paths(pipe.scheduler, policy.steps)
        self.kind: str = pipe.scheduler.config.prediction_type
        self.text = _embedded(pipe, ["", *self.prompts])
        modules = nn.ModuleDict({"lora": nn.ParameterDict(weights)})
        self.trainer = Trainer(modules, self.loss, fit, folder)

    def _kernel(self, x: Tensor, step: int, text: Tensor, empty: Tensor) -> Kernel:
        """Law of the next state under guidance."""
        time, path = self.paths[step]
        both = self.unet(torch.cat([x, x]), time, torch.cat([empty, text])).sample
        uncond, cond = both.chunk(2)
        output = uncond + self.policy.guidance * (cond - uncond)
        return sde_step(x, predict_x0(x, output, path.alpha, path.sigma, self.kind), path)

    @torch.no_grad()
    def _draw(self, rows: Tensor, draws: Draws) -> tuple[list[Tensor], Tensor]:
        """States of each step, and the pictures."""
        side = self.unet.config.sample_size
        x = draws.normal(len(rows), self.unet.config.in_channels, side, side)
        text, empty = self.text[rows + 1], self.text[:1].expand(len(rows), -1, -1)
        states = [x]
        for step in range(len(self.paths)):
            kernel = self._kernel(x, step, text, empty)
            x = kernel.mean + kernel.std * draws.normal(*x.shape)
            states.append(x)
        pixels = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
        return states, (pixels / 2 + 0.5).clamp(0, 1)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Surrogate whose gradient is that of beta * KL minus the expected reward.

        All but the last part are sent backward here, so that memory stays that of a part.
        """
        policy = self.policy
        chosen = draws.rng.choice(len(self.prompts), policy.prompts)
        rows = torch.from_numpy(np.repeat(chosen, policy.samples))
        states, pictures = self._draw(rows, draws)
        values = self.reward(pictures, [self.prompts[i] for i in rows.tolist()]).float()
        group = values.reshape(policy.prompts, policy.samples)
        # Against the mean of the others: a baseline that doesn't bias the gradient.
        advantage = (group - group.mean(1, keepdim=True)) * (policy.samples / (policy.samples - 1))
        noisy = [i for i, (_, path) in enumerate(self.paths) if path.sigma_next > 0]
        visited = draws.rng.permutation(noisy)[: policy.visited].tolist()
        share = len(noisy) / len(visited) / len(rows)
        parts = [
            (index, part)
            for index in visited
            for part in torch.arange(len(rows)).split(policy.rows)
        ]
        total, kl_total = torch.zeros(()), 0.0
        for place, (index, part) in enumerate(parts):
            chance, kl = self._step_terms(states, index, rows, part)
            loss = share * (policy.beta * kl - advantage.flatten()[part] * chance).sum()
            kl_total += share * float(kl.detach().sum())
            if place < len(parts) - 1:
                loss.backward()
                loss = loss.detach()
            total = total + loss
        self._log(step, float(values.mean()), kl_total)
        return total

    def _step_terms(
        self, states: list[Tensor], index: int, rows: Tensor, part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of the step that was taken, and its KL from the reference, (n,) each."""
        x, x_next = states[index][part], states[index + 1][part]
        text, empty = self.text[rows[part] + 1], self.text[:1].expand(len(part), -1, -1)
        kernel = self._kernel(x, index, text, empty)
        self.unet.disable_adapters()
        with torch.no_grad():
            before = self._kernel(x, index, text, empty).mean
        self.unet.enable_adapters()
        kl = (kernel.mean - before).square().flatten(1).sum(1) / (2 * kernel.std**2)
        return kernel.log_prob(x_next).float(), kl

    def _log(self, step: int, reward: float, kl: float) -> None:
        if self.trainer.rank == 0:
            self.trainer.folder.mkdir(parents=True, exist_ok=True)
            with (self.trainer.folder / "rewards.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "reward": reward, "kl": kl}) + "\n")


@torch.no_grad()
def _embedded(pipe: Any, texts: list[str]) -> Tensor:
    length = pipe.tokenizer.model_max_length
    tokens = pipe.tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return pipe.text_encoder(tokens.input_ids).last_hidden_state


def _paths(scheduler: Any, steps: int) -> list[tuple[Tensor, Gaussian]]:
    """Times and coefficients of each step, from the first to no noise."""
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod.double()
    levels = [(float(alphas[t]) ** 0.5, float(1 - alphas[t]) ** 0.5) for t in scheduler.timesteps]
    pairs = zip(levels, [*levels[1:], (1.0, 0.0)], strict=True)
    return [(t, Gaussian(*a, *b)) for t, (a, b) in zip(scheduler.timesteps, pairs, strict=True)]


def export_adapter(weights: dict[str, Tensor], target: Path) -> None:
    """Write an adapter as `load_lora_weights` reads it, in half precision.

    Arguments:
        weights: As `Trainer.averaged` gives them.
        target: Where the file goes.
    """
    target.mkdir(parents=True, exist_ok=True)
    layers: dict[str, nn.Module | Tensor] = {
        name.removeprefix("lora.").replace("/", ".").replace(f".{_NAME}.", "."): value.half()
        for name, value in weights.items()
    }
    StableDiffusionPipeline.save_lora_weights(target, unet_lora_layers=layers)
    file = next(target.glob("*.safetensors"))
    save_file({k: v.contiguous() for k, v in load_file(file).items()}, file)
    file.chmod(0o644)

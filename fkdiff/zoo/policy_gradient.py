"""Recipe of `emoji-rl`: a LoRA of `emoji` tuned by policy gradient on a reward, held by a KL.

A stochastic step is Gaussian, so that what it draws is an action of known log-probability (DDPO,
Black et al., 2023, arXiv 2305.13301; groups of one prompt as in Flow-GRPO, Liu et al., 2025, arXiv
2505.05470). Only one step of a picture is stochastic, and a group shares all before it (branches
as in TempFlow-GRPO, He et al., 2025, arXiv 2508.04324): what a reward is due to is known, and the
network is asked once for a whole group.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fkdiff.processes import Gaussian, Kernel, predict_x0, sde_step
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["PathwiseTask", "Policy", "PolicyGradientTask", "export_adapter"]

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
_RANK = 16
_NAME = "tuned"

PictureReward = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures (n, 3, h, w) in [0, 1], n prompts) -> n calibrated rewards."""


@dataclass(frozen=True)
class Policy:
    r"""What is tuned, and how hard.

    Maximises $E[\rho(x_0)] - \beta\, \mathrm{KL}(p_\theta \| p_{\mathrm{ref}})$ over what
    each step draws, whose optimum is $p_{\mathrm{ref}} e^{\rho / \beta}$.

    Arguments:
        beta: Strength of the KL, per standard deviation of the reward.
        prompts: Prompts a step of the training, a multiple of `branches`.
        samples: Pictures of each prompt, at least 2: each is judged against the others.
        steps: Denoising steps of a picture.
        branches: Steps that are made stochastic, at random, each for its share of the prompts.
        window: Share of the run, from its start, in which these lie.
        guidance: Guidance scale while drawing and learning.
    """

    beta: float = 0.25
    prompts: int = 8
    samples: int = 8
    steps: int = 12
    branches: int = 2
    window: float = 0.7
    guidance: float = 2.0

    @property
    def pictures(self) -> int:
        """Pictures a step of the training."""
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

    def _kernel(self, x: Tensor, step: int, rows: Tensor, eta: float) -> Kernel:
        """Law of the next state under guidance, of these prompts."""
        time, path = self.paths[step]
        text, empty = self.text[rows + 1], self.text[:1].expand(len(rows), -1, -1)
        both = self.unet(torch.cat([x, x]), time, torch.cat([empty, text])).sample
        uncond, cond = both.chunk(2)
        output = uncond + self.policy.guidance * (cond - uncond)
        return sde_step(x, predict_x0(x, output, path.alpha, path.sigma, self.kind), path, eta)

    def _kl(self, kernel: Kernel, x: Tensor, step: int, rows: Tensor) -> Tensor:
        """KL of a step from the reference's, (n,)."""
        self.unet.disable_adapters()
        before = self._kernel(x, step, rows, eta=1.0).mean
        self.unet.enable_adapters()
        return (kernel.mean - before).square().flatten(1).sum(1) / (2 * kernel.std**2)

    @torch.no_grad()
    def _along(self, x: Tensor, steps: range, rows: Tensor) -> Tensor:
        """Deterministic steps."""
        for step in steps:
            x = self._kernel(x, step, rows, eta=0.0).mean
        return x

    def _branch(self, step: int, rows: Tensor, draws: Draws) -> tuple[Kernel, Tensor, Tensor]:
        """The stochastic step of each prompt, what it drew (n, samples, *), and KL (n,)."""
        side = self.unet.config.sample_size
        x = draws.normal(len(rows), self.unet.config.in_channels, side, side)
        x = self._along(x, range(step), rows)
        kernel = self._kernel(x, step, rows, eta=1.0)
        kl = self._kl(kernel, x, step, rows)
        noise = draws.normal(len(rows), self.policy.samples, *x.shape[1:])
        return kernel, (kernel.mean.detach()[:, None] + kernel.std * noise), kl

    @torch.no_grad()
    def _rewards(self, drawn: Tensor, step: int, rows: Tensor) -> Tensor:
        """Rewards of the pictures that what was drawn leads to, (n, samples)."""
        each = rows.repeat_interleave(self.policy.samples)
        x = self._along(drawn.flatten(0, 1), range(step + 1, len(self.paths)), each)
        return self._reward(x, each).reshape(len(rows), -1)

    def _reward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rewards of latents without noise, (n,)."""
        pixels = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
        pictures = (pixels / 2 + 0.5).clamp(0, 1)
        return self.reward(pictures, [self.prompts[i] for i in rows.tolist()]).float()

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Surrogate whose gradient is that of beta * KL minus the expected reward."""
        policy = self.policy
        chosen = torch.from_numpy(draws.rng.choice(len(self.prompts), policy.prompts))
        last = max(policy.branches, round(policy.window * (len(self.paths) - 1)))
        branches = draws.rng.permutation(last)[: policy.branches].tolist()
        loss, rewards, kls = torch.zeros(()), [], []
        for branch, rows in zip(branches, chosen.chunk(policy.branches), strict=True):
            kernel, drawn, kl = self._branch(branch, rows, draws)
            values = self._rewards(drawn, branch, rows)
            # Against the mean of the others: a baseline that doesn't bias the gradient.
            others = policy.samples / (policy.samples - 1)
            advantage = (values - values.mean(1, keepdim=True)) * others
            gain = (advantage * _log_prob(kernel, drawn)).mean(1)
            # Each branch stands for its share of all steps.
            loss = loss + last * (policy.beta * kl - gain).sum() / policy.prompts
            rewards.append(values)
            kls.append(last * kl.detach())
        self._log(step, float(torch.cat(rewards).mean()), float(torch.cat(kls).mean()))
        return loss

    def _log(self, step: int, reward: float, kl: float) -> None:
        if self.trainer.rank == 0:
            self.trainer.folder.mkdir(parents=True, exist_ok=True)
            with (self.trainer.folder / "rewards.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, "reward": reward, "kl": kl}) + "\n")


class PathwiseTask(PolicyGradientTask):
    r"""The same, where the reward has a gradient: it flows back along the trajectories.

    All steps but the last are stochastic, and the noise is held fixed (DRaFT, Clark et al., 2023,
    arXiv 2309.17400); the KL is that of the whole trajectory, by `branches` steps of it. So the
    objective keeps its optimum, and a picture tells a direction instead of one number.
    """

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Beta * KL minus the reward; all but the last part are sent backward here."""
        policy, stochastic = self.policy, len(self.paths) - 1
        rows = torch.from_numpy(draws.rng.choice(len(self.prompts), policy.pictures))
        visited = draws.rng.permutation(stochastic)[: policy.branches].tolist()
        rewards, kls, total = [], [], torch.zeros(())
        parts = rows.split(policy.samples)
        for place, part in enumerate(parts):
            value, kl = self._whole(part, visited, draws)
            kl = kl * stochastic / policy.branches
            loss = (policy.beta * kl - value).sum() / len(rows)
            if place < len(parts) - 1:
                loss.backward()
            total = total.detach() + loss
            rewards.append(value.detach())
            kls.append(kl.detach())
        self._log(step, float(torch.cat(rewards).mean()), float(torch.cat(kls).mean()))
        return total

    def _whole(self, rows: Tensor, visited: list[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Reward of a trajectory, and its KL at the visited steps, (n,) each."""
        side = self.unet.config.sample_size
        x = draws.normal(len(rows), self.unet.config.in_channels, side, side)
        kl = torch.zeros(len(rows))
        for step in range(len(self.paths)):
            kernel = self._kernel(x, step, rows, eta=1.0)
            if step in visited:
                kl = kl + self._kl(kernel, x, step, rows)
            x = kernel.mean + kernel.std * draws.normal(*x.shape)
        return self._reward(x, rows), kl


def _log_prob(kernel: Kernel, drawn: Tensor) -> Tensor:
    """Log-density of several draws of each row, (n, samples)."""
    rows = Kernel(kernel.mean.repeat_interleave(drawn.shape[1], 0), kernel.std)
    return rows.log_prob(drawn.flatten(0, 1)).float().reshape(drawn.shape[:2])


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

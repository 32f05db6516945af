r"""Recipe of `emoji-rl`: a LoRA of `emoji` tuned by policy gradient on a reward, held by a KL.

Pictures of one prompt are judged against each other (groups as in Flow-GRPO, Liu et al., 2025,
arXiv 2505.05470), and the better ones made likelier, where the matching loss stands for the
log-likelihood (Flow Policy Optimization, McAllister et al., 2025, arXiv 2507.21053). That uses a
picture at every noise level, again and again; log-probabilities of a sampler's steps (DDPO, Black
et al., 2023, arXiv 2305.13301) use it once, and taught nothing in the hour that two cores have.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from fkdiff.processes import Gaussian, predict_x0, sde_step
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = [
    "Policy",
    "PolicyGradientTask",
    "adapted",
    "advantages",
    "embedded",
    "export_adapter",
    "surrogate",
]

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
_RANK = 16
_NAME = "tuned"

PictureReward = Callable[[Tensor, Sequence[str]], Tensor]
"""(pictures (n, 3, h, w) in [0, 1], n prompts) -> n calibrated rewards."""


@dataclass(frozen=True)
class Policy:
    r"""What is tuned, and how hard.

    Maximises $E[\rho(x_0)] - \beta\, \mathrm{KL}(p_\theta \| p_{\mathrm{ref}})$, whose optimum is
    $p_{\mathrm{ref}} e^{\rho / \beta}$.

    Arguments:
        beta: Strength of the KL, per standard deviation of the reward.
        groups: Groups of pictures that are drawn, each of one prompt.
        samples: Pictures of a group, at least 2.
        steps: Denoising steps of a picture.
        guidance: Guidance scale while drawing and learning; 1 for none, at half the cost.
        batch: Pictures an update.
    """

    beta: float = 0.5
    groups: int = 600
    samples: int = 8
    steps: int = 12
    guidance: float = 1.0
    batch: int = 32


class PolicyGradientTask:
    r"""Draws pictures of the reference, judges them, and makes the better ones likelier.

    With $W = e^{\rho / \beta}$ over its mean in the group, and guided predictions v,

    $$L = E\left[(W - 1) |v_\theta(x_t) - v|^2 + |v_\theta(x_t) - v_{\mathrm{ref}}(x_t)|^2\right]$$

    is a policy gradient with advantage W - 1 and a KL, convex in $v_\theta$; where the reference
    is $E[v | x_t]$ its minimum $E[W v | x_t] / E[W | x_t]$ is the score of the optimum above.

    Arguments:
        pipe: The pipeline; its U-Net gets the adapter.
        reward: What is raised.
        prompts: What is drawn.
        fit: Settings of the run.
        folder: Where the checkpoint and the drawn pictures go; those there are drawn already.
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
        torch.manual_seed(fit.seed)
        self.pipe, self.reward, self.prompts, self.policy = pipe, reward, list(prompts), policy
        self.unet: Any = pipe.unet
        modules = adapted(pipe)
        self.kind: str = pipe.scheduler.config.prediction_type
        self.alphas: Tensor = pipe.scheduler.alphas_cumprod.sqrt()
        self.text = embedded(pipe, ["", *self.prompts])
        self.trainer = Trainer(modules, self.loss, fit, folder)
        self.drawn: dict[str, Tensor] = {}

    def predict(self, x: Tensor, times: Tensor, rows: Tensor, tuned: bool = True) -> Tensor:
        """Guided predictions of N states at N times, of these prompts, by either model."""
        (self.unet.enable_adapters if tuned else self.unet.disable_adapters)()
        text, empty = self.text[rows + 1], self.text[:1].expand(len(rows), -1, -1)
        if self.policy.guidance == 1:
            return self.unet(x, times, text).sample
        both = self.unet(torch.cat([x, x]), torch.cat([times, times]), torch.cat([empty, text]))
        uncond, cond = both.sample.chunk(2)
        return uncond + self.policy.guidance * (cond - uncond)

    @torch.no_grad()
    def draw(self, rows: Tensor, draws: Draws, tuned: bool = False) -> tuple[Tensor, Tensor]:
        """Latents (n, *) and rewards (n,) of pictures of these prompts, by deterministic steps."""
        side = self.unet.config.sample_size
        x = draws.normal(len(rows), self.unet.config.in_channels, side, side)
        for time, path in _paths(self.pipe.scheduler, self.policy.steps):
            # A third faster, and what comes out is what is judged and learnt from.
            with torch.autocast(x.device.type, torch.bfloat16):
                output = self.predict(x, time.expand(len(x)), rows, tuned).float()
            x0 = predict_x0(x, output, path.alpha, path.sigma, self.kind)
            x = sde_step(x, x0, path, eta=0.0).mean
        pixels = self.pipe.vae.decode(x / self.pipe.vae.config.scaling_factor).sample
        values = self.reward((pixels / 2 + 0.5).clamp(0, 1), [self.prompts[i] for i in rows])
        return x, values.float()

    def collect(self) -> None:
        """Draw what is learnt from, this process its share, or take it from the folder."""
        trainer, policy = self.trainer, self.policy
        file = trainer.folder / f"drawn_{trainer.rank}.safetensors"
        if not file.is_file():
            parts = []
            own = range(trainer.rank, policy.groups, trainer.world)
            for group in tqdm(own, desc="draw", mininterval=5, disable=trainer.rank > 0):
                rows = torch.full((policy.samples,), group % len(self.prompts))
                x, values = self.draw(rows, Draws(trainer.fit.seed, group, rank=1_000_000))
                weights = advantages(values, policy.beta) + 1
                parts.append({"x": x, "row": rows, "reward": values, "weight": weights})
            trainer.folder.mkdir(parents=True, exist_ok=True)
            save_file({k: torch.cat([part[k] for part in parts]) for k in parts[0]}, file)
        self.drawn = load_file(file)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """The loss above on pictures at random noise levels, less what doesn't depend on theta."""
        if not self.drawn:
            self.collect()
        chosen = torch.from_numpy(draws.rng.choice(len(self.drawn["x"]), self.policy.batch))
        x0, rows, weight = (self.drawn[key][chosen] for key in ("x", "row", "weight"))
        times = torch.from_numpy(draws.rng.integers(0, len(self.alphas), len(chosen)))
        alpha = self.alphas[times].reshape(-1, 1, 1, 1)
        sigma, noise = (1 - alpha**2).sqrt(), draws.normal(*x0.shape)
        x = alpha * x0 + sigma * noise
        target = noise if self.kind == "epsilon" else alpha * noise - sigma * x0
        with torch.no_grad():
            before = self.predict(x, times, rows, tuned=False)
        return surrogate(self.predict(x, times, rows), before, target, weight)

    def gain(self, count: int, seed: int) -> dict[str, float]:
        """Mean reward before and after on the same fresh noise, and the paired error."""
        rows = torch.arange(count) % len(self.prompts)
        found = []
        for tuned in (False, True):
            parts = enumerate(rows.split(16))
            values = [self.draw(r, Draws(seed, i, rank=2_000_000), tuned)[1] for i, r in parts]
            found.append(torch.cat(values))
        before, after = found
        error = float((after - before).std()) / math.sqrt(count)
        return {"before": float(before.mean()), "after": float(after.mean()), "error": error}


def advantages(rewards: Tensor, beta: float) -> Tensor:
    """W - 1 of a group's rewards (n,).

    >>> advantages(torch.tensor([0.0, 0.0, 0.0]), beta=0.5)
    tensor([0., 0., 0.])
    """
    return (rewards / beta).softmax(0) * len(rewards) - 1


def surrogate(predicted: Tensor, before: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The loss L, less what doesn't depend on the predictions (n, *); weights W (n,)."""
    moved, away = (predicted - before).flatten(1), (before - target).flatten(1)
    return (weight * (moved**2).mean(1) + 2 * (weight - 1) * (moved * away).mean(1)).mean()


def adapted(pipe: Any) -> nn.ModuleDict:
    """Freezes a pipeline, gives its U-Net a LoRA, and returns what is to be trained."""
    from peft import LoraConfig

    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    config = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_TARGETS))
    pipe.unet.add_adapter(config, adapter_name=_NAME)
    weights = {n.replace(".", "/"): p for n, p in pipe.unet.named_parameters() if "lora_" in n}
    return nn.ModuleDict({"lora": nn.ParameterDict(weights)})


@torch.no_grad()
def embedded(pipe: Any, texts: list[str]) -> Tensor:
    """Text states (n, length, width) of a pipeline's encoder."""
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

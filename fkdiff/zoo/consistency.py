r"""Recipe of `emoji-lcm`: a LoRA with which `emoji` draws in 2 to 4 steps.

Consistency distillation in latent space (Luo et al., 2023, arXiv 2310.04378; as a LoRA, arXiv
2311.05556): along the guided model's deterministic path, every state is taught to give what the
state one step further gives. The pictures keep the guidance that was distilled, and are drawn
with `LCMScheduler` at `guidance_scale=1`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkdiff.zoo.latents import LatentData
from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.policy_gradient import adapted, embedded

__all__ = ["ConsistencyTask", "boundary", "moved", "student"]

_STEPS = 50
"""Steps of the path that is distilled, `original_inference_steps` of `LCMScheduler`."""
_HUBER = 0.001
_SPREAD = 0.5

Estimate = Callable[[Tensor, Tensor], Tensor]
"""(states (n, *), step indices (n,)) -> denoised estimates (n, *)."""


def boundary(times: Tensor, scaling: float = 10.0) -> tuple[Tensor, Tensor]:
    """Weights of the state and of the estimate, as `LCMScheduler` mixes them: the state at 0.

    Arguments:
        times: Step indices, (n,), -1 for the clean end.
        scaling: The scheduler's `timestep_scaling`.

    >>> keep, move = boundary(torch.tensor([-1, 0, 999]))
    >>> keep.round(decimals=3), move.round(decimals=3)
    (tensor([1., 1., 0.]), tensor([0., 0., 1.]))
    """
    scaled = scaling * times.clamp(min=0)
    total = scaled**2 + _SPREAD**2
    return _SPREAD**2 / total, scaled / total.sqrt()


def student(x: Tensor, times: Tensor, estimate: Estimate) -> Tensor:
    """What a consistency model gives for states (n, *) at step indices (n,)."""
    keep, move = (_wide(weight, x) for weight in boundary(times))
    return keep * x + move * estimate(x, times.clamp(min=0))


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


class ConsistencyTask:
    """Distance of a state's output from that of the state one step further, on cached latents.

    Arguments:
        pipe: `emoji`; its U-Net gets the adapter.
        data: Cached latents and tokens.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        guidance: Guidance scale of the path that is distilled.
        batch: Latents a step.
    """

    def __init__(
        self,
        pipe: Any,
        data: LatentData,
        fit: Fit,
        folder: Path,
        guidance: float = 3.0,
        batch: int = 32,
    ) -> None:
        torch.manual_seed(fit.seed)
        self.pipe, self.data, self.guidance, self.batch = pipe, data, guidance, batch
        self.unet: Any = pipe.unet
        modules = adapted(pipe)
        self.kind: str = pipe.scheduler.config.prediction_type
        self.alphas: Tensor = pipe.scheduler.alphas_cumprod.sqrt()
        self.empty = embedded(pipe, [""])
        self.trainer = Trainer(modules, self.loss, fit, folder)

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise at step indices (n,), -1 for the clean end."""
        alpha = torch.where(times < 0, torch.ones(()), self.alphas[times.clamp(min=0)])
        return alpha, (1 - alpha**2).sqrt()

    def estimate(self, x: Tensor, times: Tensor, text: Tensor) -> Tensor:
        """Denoised estimates by whichever model is on."""
        output = self.unet(x, times, text).sample.float()
        alpha, sigma = (_wide(level, x) for level in self.levels(times))
        if self.kind == "v_prediction":
            return alpha * x - sigma * output
        return (x - sigma * output) / alpha

    @torch.no_grad()
    def further(self, x: Tensor, times: Tensor, then: Tensor, text: Tensor) -> Tensor:
        """States one step of the guided reference further."""
        self.unet.disable_adapters()
        both = torch.cat([self.empty.expand(len(x), -1, -1), text])
        estimates = self.estimate(torch.cat([x, x]), torch.cat([times, times]), both)
        plain, captioned = estimates.chunk(2)
        x0 = plain + self.guidance * (captioned - plain)
        return moved(x, x0, self.levels(times), self.levels(then))

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Pseudo-Huber distance of both outputs."""
        rows = draws.rng.integers(0, len(self.data.tokens), self.batch)
        x0 = torch.from_numpy(self.data.latents[rows]).float()
        with torch.no_grad():
            text = self.pipe.text_encoder(torch.from_numpy(self.data.tokens[rows]))
            text = text.last_hidden_state
        stride = len(self.alphas) // _STEPS
        times = torch.from_numpy(draws.rng.integers(1, _STEPS + 1, self.batch)) * stride - 1
        then = times - stride
        alpha, sigma = (_wide(level, x0) for level in self.levels(times))
        x = alpha * x0 + sigma * draws.normal(*x0.shape)
        later = self.further(x, times, then, text)
        self.unet.enable_adapters()

        def estimate(states: Tensor, at: Tensor) -> Tensor:
            return self.estimate(states, at, text)

        with torch.no_grad():
            target = student(later, then, estimate)
        error = student(x, times, estimate) - target
        return ((error**2 + _HUBER**2).sqrt() - _HUBER).mean()


def moved(
    x: Tensor, x0: Tensor, level: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]
) -> Tensor:
    """States after a deterministic step, each row from its own signal and noise to its next."""
    alpha, sigma, next_alpha, next_sigma = (_wide(value, x) for value in (*level, *then))
    return next_alpha * x0 + next_sigma * (x - alpha * x0) / sigma

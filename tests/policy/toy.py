"""Policies whose answers are known: linear-Gaussian actions, and two narrow modes."""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from fkdiff.policy import Levels

__all__ = ["COSINE", "Gaussian", "TwoModes", "ddim", "ddpm", "flow"]

COSINE = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}


def ddpm() -> Levels:
    return Levels.of(DDPMScheduler(**COSINE))


def ddim() -> Levels:
    return Levels.of(DDIMScheduler(**COSINE))


def flow() -> Levels:
    return Levels.of(FlowMatchEulerDiscreteScheduler(100, shift=2.0))


@dataclass
class Gaussian:
    """Exact denoiser where every action is N(o, s^2), o the first number of the observation."""

    levels: Levels
    spread: float
    calls: int = 0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.tensor(self.levels.timesteps, dtype=torch.float64)
        at = (known - t.double()[:, None]).abs().argmin(1)
        table = torch.tensor([self.levels.alpha, self.levels.sigma], dtype=torch.float64)
        alpha, sigma = table[:, at, None, None]
        return alpha, sigma

    def mean(self, x: Tensor, observation: Tensor) -> Tensor:
        return observation[:, :1, None].to(x)

    def __call__(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        self.calls += len(x)
        alpha, sigma = self.coefficients(t)
        m, s2 = self.mean(x, observation), self.spread**2
        x0 = m + alpha * s2 / (alpha**2 * s2 + sigma**2) * (x - alpha * m)
        noise = (x - alpha * x0) / sigma
        out = noise - x0 if self.levels.prediction == "flow_prediction" else noise
        return out.to(x)


@dataclass
class TwoModes(Gaussian):
    """Whole chunks around -1 or around +1, half of them each, spread s."""

    def __call__(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        alpha, sigma = self.coefficients(t)
        s2 = self.spread**2
        power = alpha**2 * s2 + sigma**2
        share = torch.sigmoid(2 * alpha * x.sum((1, 2), keepdim=True) / power)
        x0 = alpha * s2 / power * x + sigma**2 / power * (2 * share - 1)
        return ((x - alpha * x0) / sigma).to(x)

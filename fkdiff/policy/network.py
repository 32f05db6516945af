r"""The denoiser of the bundled policy: a residual MLP over a whole chunk of actions.

It predicts noise, $\hat\epsilon = \sigma_t x + \alpha_t v_\theta(x, t, o)$: the network itself
gives a velocity, so that its errors stay bounded at every level. A call takes well below a
millisecond for one chunk on one core.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

__all__ = ["ChunkDenoiser"]


class ChunkDenoiser(ModelMixin, ConfigMixin):
    r"""Predicts the noise in a chunk of actions, given what is observed.

    Arguments:
        horizon: H, actions in a chunk.
        action_size: D, numbers in an action.
        observation_size: Numbers in an observation.
        width: Width of the residual blocks.
        condition: Width of the embedding of observation and level.
        depth: Number of residual blocks.
        num_train_timesteps: T, noise levels of the schedule.
        beta_schedule: Schedule of diffusers' `DDPMScheduler`, for alpha and sigma.

    Example:
        >>> net = ChunkDenoiser(horizon=4, action_size=2, observation_size=3, width=8, depth=1)
        >>> net(torch.zeros(5, 4, 2), 7, torch.zeros(5, 3)).shape
        torch.Size([5, 4, 2])
    """

    config_name = "config.json"
    mean: Tensor
    deviation: Tensor
    features: Tensor
    alpha: Tensor
    sigma: Tensor

    @register_to_config
    def __init__(
        self,
        horizon: int = 16,
        action_size: int = 4,
        observation_size: int = 43,
        width: int = 320,
        condition: int = 256,
        depth: int = 3,
        num_train_timesteps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
    ) -> None:
        super().__init__()
        stated: Any = {"beta_schedule": beta_schedule}
        schedule: Any = DDPMScheduler(num_train_timesteps, **stated)
        power = schedule.alphas_cumprod
        self.register_buffer("alpha", power.sqrt(), persistent=False)
        self.register_buffer("sigma", (1 - power).sqrt(), persistent=False)
        self.register_buffer("features", _features(num_train_timesteps), persistent=False)
        self.register_buffer("mean", torch.zeros(observation_size))
        self.register_buffer("deviation", torch.ones(observation_size))
        self.observed = nn.Linear(observation_size, condition)
        self.level = nn.Linear(self.features.shape[1], condition)
        self.mixed = nn.Linear(condition, condition)
        self.conditions = nn.Linear(condition, width * depth)  # of all blocks in one product
        self.first = nn.Linear(horizon * action_size, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.last = nn.Linear(width, horizon * action_size)

    def forward(self, sample: Tensor, timestep: Tensor | int, observation: Tensor) -> Tensor:
        """Predicted noise, shape (n, H, D).

        Arguments:
            sample: Noisy chunks, shape (n, H, D).
            timestep: Level in [0, T), one for all or shape (n,).
            observation: Shape (n, observation_size).
        """
        x = sample.flatten(1)
        o = ((observation - self.mean) / self.deviation).clamp(-5, 5)
        c = nn.functional.silu(self.observed(o) + self.level(self.features[timestep]))
        c = nn.functional.silu(self.mixed(c))
        h = self.first(x)
        for block, term in zip(
            self.blocks, self.conditions(c).chunk(len(self.blocks), 1), strict=True
        ):
            h = block(h, term)
        alpha, sigma = self.alpha[timestep], self.sigma[timestep]
        if alpha.ndim:
            alpha, sigma = alpha[:, None], sigma[:, None]
        return (sigma * x + alpha * self.last(h)).view(sample.shape)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, width)
        self.narrow = nn.Linear(width, width)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, h: Tensor, term: Tensor) -> Tensor:
        return h + self.narrow(nn.functional.silu(self.wide(self.norm(h)) + term))


def _features(levels: int, pairs: int = 16) -> Tensor:
    """Sines and cosines of the level, shape (T, 2 pairs)."""
    rate = torch.exp(torch.linspace(0, -4, pairs))
    angle = torch.arange(levels)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)

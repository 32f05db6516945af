"""A diffusers-style scheduler for Gumbel-softmax flows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor

from fkdiff.processes.gaussian import Kernel, randn_rows
from fkdiff.processes.simplex import GumbelPath, Schedule, Simplex, centre, gumbel, simplex_step

__all__ = ["GumbelFlowScheduler", "GumbelFlowSchedulerOutput", "pushed"]


@dataclass
class GumbelFlowSchedulerOutput(BaseOutput):
    """What a step gives.

    Arguments:
        prev_sample: Centred logits after the step, shape (n, L, K).
        pred_original_sample: Posterior of the tokens, shape (n, L, K).
        log_ratio: Log proposal ratio of the guidance, shape (n,), float64; None without noise.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    log_ratio: Tensor | None = None


class GumbelFlowScheduler(SchedulerMixin, ConfigMixin):
    r"""Steps of a Gumbel-softmax flow in centred logits; time runs from 0 (noise) to 1 (data).

    Arguments:
        categories: K, letters of the alphabet.
        schedule: "consistent" or "paper"; see `GumbelPath`.
        s_max: Final gain of "consistent"; None is $\log K + 6$.
        tau_max: Temperature at t = 0 of "paper".
        decay: $\lambda$ of "paper".
        beta: $\beta$ of "paper".

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361

    Example:
        >>> scheduler = GumbelFlowScheduler(4)
        >>> scheduler.set_timesteps(2)
        >>> scheduler.timesteps
        tensor([0.0000, 0.5000])
        >>> z = torch.zeros(1, 1, 4)
        >>> out = scheduler.step(torch.tensor([[[9.0, 0, 0, 0]]]), scheduler.timesteps[1], z)
        >>> out.prev_sample.argmax(-1)
        tensor([[0]])
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        categories: int,
        schedule: Schedule = "consistent",
        s_max: float | None = None,
        tau_max: float = 10.0,
        decay: float = 3.0,
        beta: float = 2.0,
    ) -> None:
        self.path = GumbelPath(categories, schedule, s_max, tau_max, decay, beta)
        self.init_noise_sigma = float(self.path.sigma(0.0))
        self.timesteps = torch.zeros(0)
        self._steps: list[Simplex] = []

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Lay out a run of equal steps in time.

        Raises:
            ValueError: If there are no steps.
        """
        self._steps = list(self.path.transitions(num_inference_steps))
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps, device=device) / num_inference_steps

    def levels(self, timestep: "float | Tensor") -> Simplex:
        """The transition that starts at a time of the run.

        Raises:
            ValueError: If no step starts there, or `set_timesteps` wasn't called.
        """
        near = (self.timesteps.cpu() - float(timestep)).abs()
        if not len(near) or float(near.min()) > 1e-5:
            raise ValueError(
                f"timestep must be one of the run's, got {float(timestep):g}; "
                f"call set_timesteps first and go through `timesteps`"
            )
        return self._steps[int(near.argmin())]

    def scale_model_input(self, sample: Tensor, timestep: "float | Tensor" = 0) -> Tensor:
        """The sample as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""$P[\alpha_t e_k + \sigma_t g]$, shape (n, L, K).

        Arguments:
            original_samples: Vertices of the simplex, shape (n, L, K).
            noise: Gumbel(0, 1) noise, same shape.
            timesteps: Times in [0, 1], shape (n,).
        """
        t = timesteps.to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1))
        return self.path.interpolate(original_samples, noise, t)

    def initial(self, uniform: Tensor) -> Tensor:
        """The law at t = 0 from uniform numbers (n, L, K)."""
        return centre(self.path.sigma(0.0) * gumbel(uniform))

    def step(
        self,
        model_output: Tensor,
        timestep: "float | Tensor",
        sample: Tensor,
        guidance: Tensor | None = None,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> GumbelFlowSchedulerOutput | tuple[Tensor, Tensor, Tensor | None]:
        """One transition.

        Arguments:
            model_output: Logits of the posterior, shape (n, L, K).
            timestep: Time that the step starts at.
            sample: Centred logits, same shape.
            guidance: Drift per unit of gain, same shape, sums to 0 at each position.
            eta: Noise level; 0 is the deterministic flow, 1 the full stochastic step.
            generator: One, or one a row.
            return_dict: False for a plain tuple.

        Raises:
            ValueError: If `eta` doesn't fit the schedule, or the time isn't of the run.
        """
        levels, p = self.levels(timestep), model_output.softmax(-1)
        plain = simplex_step(sample, p, levels, eta)
        guided = plain if guidance is None else pushed(plain, guidance, levels)
        drawn = guided.mean
        if guided.std:
            drawn = centre(drawn + guided.std * _noise(drawn, generator))
        ratio = None
        if guided.std and guidance is not None:
            ratio = plain.log_prob(drawn) - guided.log_prob(drawn)
        out = GumbelFlowSchedulerOutput(drawn, p, ratio)
        return out if return_dict else (drawn, p, ratio)

    def __len__(self) -> int:
        """Number of steps laid out."""
        return len(self._steps)


def pushed(kernel: Kernel, drift: Tensor, levels: Simplex) -> Kernel:
    """The step with a drift per unit of gain added to its mean."""
    return Kernel(kernel.mean + (levels.alpha_next - levels.alpha) * drift, kernel.std)


def _noise(like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    if isinstance(generator, Sequence):
        return randn_rows(like, generator)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

r"""The loop of a decision: one denoiser call and one Gaussian step for each visited level.

It is the same step as diffusers' DDPM (eta 1), DDIM (eta 0) and flow matching, on coefficients
that are read once; a scheduler's own `step` costs more time than a small network. Where the clean
estimate is clipped, the noise estimate is made to agree with it (`use_clipped_model_output=True`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fkdiff.policy.levels import Levels, Plan
from fkdiff.processes import Gaussian, predict_x0, sde_step
from fkdiff.terms.memory import Batched, Limit, in_parts

__all__ = ["Denoiser", "denoise", "estimate"]

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (n, H, D), t (n,), observation (n, O)) -> prediction (n, H, D)."""


def estimate(
    denoiser: Denoiser,
    levels: Levels,
    x: Tensor,
    t: float,
    path: Gaussian,
    observation: Tensor,
    holder: Batched,
) -> Tensor:
    """Clean estimate of noisy chunks x (n, H, D), where the transition `path` begins at level t.

    `observation` is (n, O); `holder` says how many rows the network is given.

    Raises:
        ValueError: If the denoiser returns another shape.
    """
    times = torch.full((len(x),), t, device=x.device)
    output = in_parts(
        holder, len(x), lambda rows: denoiser(x[rows], times[rows], observation[rows])
    )
    if output.shape != x.shape:
        raise ValueError(
            f"denoiser must return the shape of its chunks, {tuple(x.shape)}, "
            f"got {tuple(output.shape)}"
        )
    x0 = predict_x0(x, output, path.alpha, path.sigma, levels.prediction)
    return x0 if levels.clip is None else x0.clamp(-levels.clip, levels.clip)


def denoise(
    denoiser: Denoiser,
    levels: Levels,
    plan: Plan,
    x: Tensor,
    observation: Tensor,
    noise: Callable[[Tensor], Tensor],
    holder: Batched | None = None,
) -> Tensor:
    """Run a plan from noisy chunks x (n, H, D) at its first level; returns clean chunks.

    `observation` is (n, O); `noise` draws like its argument, unused where eta is 0; `holder` says
    how many rows the network is given, None for all, fewer where memory runs out.
    """
    holder = Limit() if holder is None else holder
    for t, path in zip(plan.timesteps, plan.path, strict=True):
        x0 = estimate(denoiser, levels, x, t, path, observation, holder)
        if path.sigma_next == 0:  # what the step comes to, without its arithmetic
            x = path.alpha_next * x0
            continue
        kernel = sde_step(x, x0, path, plan.eta)
        x = kernel.mean + kernel.std * noise(x) if kernel.std else kernel.mean
    return x

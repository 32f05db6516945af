r"""How much of a guess's error survives denoising, in closed form for narrow Gaussian modes.

Where actions follow $N(m, s^2)$ given the observation, the exact estimate moves by
$g = \alpha s^2 / (\alpha^2 s^2 + \sigma^2)$ for each unit that the noisy action moves, so the step
$(\alpha, \sigma) \to (\alpha', \sigma')$ shrinks an error by

$$c = \alpha' g + \frac{\sqrt{\sigma'^2 - \gamma^2}}{\sigma} (1 - \alpha g)$$

and the whole run by $C(K') = \prod c$, over the levels that are really visited. DDPM telescopes to
$\alpha s^2 / (\alpha^2 s^2 + \sigma^2)$, the DDIM limit is $s / \sqrt{\alpha^2 s^2 + \sigma^2}$.
It holds within one mode: no number of steps brings a guess from one mode to another.

References:
    | Real-Time Iteration Scheme for Diffusion Policy (2025), arXiv 2508.05396, whose bound by a
    | Lipschitz constant is above 1; this is the factor itself
"""

import math

import torch
from torch import Tensor

from fkdiff.policy.levels import Plan
from fkdiff.processes import Gaussian

__all__ = ["contraction_factor", "start_scale"]


def contraction_factor(plan: Plan, spread: Tensor | float) -> Tensor:
    """Product of the steps' factors, for errors of the noisy chunk at the first level.

    Arguments:
        plan: The levels visited, and the solver.
        spread: s, standard deviation of actions given the observation, any shape, not negative.

    Returns:
        C, shaped like `spread`, float64, in [0, 1 / alpha].

    Raises:
        ValueError: If a spread is negative or not a number.

    Example:
        >>> from diffusers import DDPMScheduler
        >>> from fkdiff.policy.levels import Levels
        >>> levels = Levels.of(DDPMScheduler(100, beta_schedule="squaredcos_cap_v2"))
        >>> [round(float(contraction_factor(levels.plan(k), 0.1)), 2) for k in (4, 16, 26)]
        [0.65, 0.13, 0.05]
    """
    s = torch.as_tensor(spread, dtype=torch.float64)
    if not bool((s >= 0).all()):
        raise ValueError("spread must be a number of at least 0; was the calibration run finite?")
    product = torch.ones_like(s)
    for path in plan.path:
        product = product * _factor(path, s, plan.eta)
    return product


def _factor(path: Gaussian, s: Tensor, eta: float) -> Tensor:
    gain = path.alpha * s**2 / (path.alpha**2 * s**2 + path.sigma**2)
    gamma = eta * path.sigma_next / path.sigma * _fresh(path)
    keep = math.sqrt(max(path.sigma_next**2 - gamma**2, 0.0))
    return path.alpha_next * gain + keep / path.sigma * (1 - path.alpha * gain)


def _fresh(path: Gaussian) -> float:
    """Deviation that a step of DDPM has forgotten of the level it comes from."""
    return math.sqrt(max(path.sigma**2 - (path.alpha / path.alpha_next * path.sigma_next) ** 2, 0))


def start_scale(plan: Plan, noise: str | float) -> float:
    """What the guess is multiplied by at the first level: alpha, or 1 as published."""
    return 1.0 if noise == "none" else plan.path[0].alpha

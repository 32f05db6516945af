r"""Feynman-Kac correctors: weights that make a pool of experts reach the law it stands for.

Moving particles by the mixed score of $\prod_j q_j^{b_j}$ doesn't sample it: the noised product
isn't the product of the noised laws. The corrector carries the difference as log-weights.

References:
    | Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts
    | (Skreta et al., 2025), arXiv 2503.02819
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fkdiff.processes import Gaussian, Kernel
from fkdiff.terms.term import Weightless

__all__ = ["Correct", "Move", "pool_estimate", "warn_few_steps"]

# Total variation from the target with 8000 particles on a grid uniform in log-SNR, 1-D mixtures.
_FEW = (
    "Correct() runs {steps} steps; below 50 its weights are a heuristic. Total variation from the "
    "target at 20, 50 and 200 steps: guidance 2 .100, .041, .035 (without weights .075, .074, "
    ".103), annealing 2.5 .251, .049, .057, product .177, .093, .041; take more steps"
)


@dataclass(frozen=True)
class Move:
    """What the corrector does in one transition.

    Arguments:
        kernel: Law of the next state.
        d: Increment of the log-weights, shape (N,), float64.
    """

    kernel: Kernel
    d: Tensor


@dataclass(frozen=True)
class Correct(Weightless):
    r"""Carry the weights that make the pool reach $\prod_j q_j^{b_j}$.

    With $S = \sum_j b_j s_j$, $B = \sum_j b_j$, and $\sigma_t^2 d\tau = \sigma^2
    \Delta \log \mathrm{SNR}$ of the forward process,

    $$dX = \left[-f + \tfrac{1 + \zeta^2}{2} \sigma_t^2 S + \gamma (X - m_t)\right] d\tau
    + \zeta \sigma_t dW$$
    $$d \log w = \left\{(B - 1) \nabla \cdot f + \tfrac{\sigma_t^2}{2} \left(|S|^2 -
    \sum_j b_j |s_j|^2\right) + \nabla \cdot u + u \cdot S \right\} d\tau, \quad
    u = \gamma (X - m_t),\ \gamma = \frac{\sigma_t^2 (B - 1)}{2 v_t}$$

    evaluated once on the flat pool: increments of separate terms may not be added. The linear
    drift control u makes the increment constant wherever the experts are Gaussian with mean
    $m_t = \alpha m$ and variance $v_t = \alpha^2 v + \sigma^2$, so in all of the high-noise phase;
    it is exact for any m and v, and best where they are the data's: at 400 steps the weights of
    three experts of variance 6 miss their normaliser by 4% with v = 1 and by 1% with v = 4. Tilts
    add the change of their log-twists (a Feynman-Kac ratio).

    The run starts from $N(0, \sigma_T^2 / B)$; where $\alpha_T = 0$, at the first level with
    $\alpha > 0$. `log_z` reports $\log \int e^h \prod_j q_j^{b_j}$ in units of the data, with
    every q_j at the smallest noise level.

    Arguments:
        zeta: Noise of the moves: 1 is the target score, "tempered" is $B^{-1/2}$ (tempered
            noise); every choice has the same weights. A step that can't carry so much noise takes
            as much as it can.
        control: Linear drift control; None has it where $B \neq 1$.
        mean: m of the control, a number or a tensor like one latent.
        variance: v of the control, likewise, positive.
        exponent: Power of the weights, in [0, 1]; below 1 the result is biased towards the
            uncorrected pool, openly.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts
        | (Skreta et al., 2025), arXiv 2503.02819
        | Linear drift control: the simplest case of DriftLite (2025), arXiv 2509.21655
    """

    zeta: float | Literal["tempered"] = 1.0
    control: bool | None = None
    mean: float | Tensor = 0.0
    variance: float | Tensor = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if self.zeta != "tempered" and not (
            isinstance(self.zeta, int | float) and 0 < self.zeta < math.inf
        ):
            raise ValueError(f"zeta must be positive or 'tempered', got {self.zeta!r}")
        if not bool((torch.as_tensor(self.variance) > 0).all()):
            raise ValueError(f"variance must be positive, got {self.variance}")
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"exponent must be in [0, 1], got {self.exponent}; 1 is unbiased")

    @property
    def needs(self) -> frozenset[str]:
        """The network's predictions."""
        return frozenset({"scores"})

    @property
    def steers(self) -> bool:
        """Weights differ from the first transition on."""
        return True

    @property
    def target(self) -> str:
        """Where the weights lead."""
        law = "prod q_j^b_j at the smallest noise level, for exact scores as steps go to 0"
        return law if self.exponent == 1 else f"heuristic: weights to the power {self.exponent:g}"

    def move(
        self,
        x: Tensor,
        path: Gaussian,
        pool: Sequence[tuple[float, Tensor]],
        before: Gaussian | None,
    ) -> Move:
        """One transition of N rows.

        Arguments:
            x: State, shape (N, *); in the first transition already scaled by B^(-1/2).
            path: Coefficients before and after.
            pool: Exponents and noise predictions, the latter of shape (N, *).
            before: The transition before this one; None in the first, where the starting law's
                normaliser is due.
        """
        total, size = sum(b for b, _ in pool), x[0].numel()
        d = torch.zeros(len(x), dtype=torch.float64)
        if path.alpha == 0:
            # Without signal all experts agree, and the weights' clock log SNR hasn't started.
            scaled = x * (path.sigma_next / path.sigma)
            return Move(Kernel(scaled, 0.0), d + _log_start(total, size, path.sigma_next))
        d -= self.exponent * (total - 1) * size * math.log(path.alpha_next / path.alpha)
        if before is None:
            d += _log_start(total, size, path.sigma)
        mixed = _mixed(pool)
        rate = (_squares(mixed) - sum(b * _squares(epsilon) for b, epsilon in pool)) / 2
        if path.sigma_next == 0:
            kernel = Kernel(path.alpha_next * pool_estimate(x, path, pool), 0.0)
        else:
            kernel = _kernel(x, mixed, path, self._zeta(total))
        controlled = total != 1 if self.control is None else self.control
        bare = total != 1 and not controlled
        if controlled:
            kernel, work, gain = self._controlled(x, mixed, path, total, kernel)
            rate, d = rate + work, d + self.exponent * gain
        # The trapezoid rule: what is found here counts for half of the steps on both its sides.
        # Without control the rate stays large at high noise, where the clock's steps are long.
        steps = _clock(path) if bare else (_clock(before) + _clock(path)) / 2
        return Move(kernel, d + self.exponent * rate * steps)

    def _zeta(self, total: float) -> float:
        return total**-0.5 if self.zeta == "tempered" else float(self.zeta)

    def _controlled(
        self, x: Tensor, mixed: Tensor, path: Gaussian, total: float, kernel: Kernel
    ) -> tuple[Kernel, Tensor, float]:
        r"""The controlled kernel, its work per unit of the clock, its divergence over the step.

        What is linear in the state is moved exactly: $N(m_t, v_t / B)$ becomes the same law of
        the next level, whatever noise the step adds.
        """
        mean, variance = (
            v.to(x) if isinstance(v, Tensor) else torch.tensor(v).to(x)
            for v in (self.mean, self.variance)
        )
        spread = (path.alpha**2 * variance + path.sigma**2).expand(x.shape[1:])
        after = (path.alpha_next**2 * variance + path.sigma_next**2).expand(x.shape[1:])
        away = x - path.alpha * mean
        share = (total - 1) / 2
        pull = (path.sigma * away / spread).double() * mixed.double()
        work = -share * pull.flatten(1).sum(1).cpu()
        if path.sigma_next == 0:
            return kernel, work + share * float((path.sigma**2 / spread).double().sum()), 0.0
        linear = total * path.sigma / spread * away
        plain = _kernel(x, linear, path, self._zeta(total)).mean
        keep = ((after - total * kernel.std**2).clamp(min=0) / spread).sqrt()
        moved = path.alpha_next * mean + keep * away + kernel.mean - plain
        growth = (spread / after).double().log().sum() + 2 * spread[..., None].numel() * math.log(
            path.alpha_next / path.alpha
        )
        return Kernel(moved, kernel.std), work, share * float(growth)


def pool_estimate(x: Tensor, path: Gaussian, pool: Sequence[tuple[float, Tensor]]) -> Tensor:
    r"""Denoised estimate of the pool, shape (N, *), by $\sum_j b_j \epsilon_j / B$.

    Without the division the estimate of an annealed pool would explode at high noise, where every
    expert predicts $x / \sigma$ and the state has variance $\sigma^2 / B$.
    """
    total = sum(b for b, _ in pool)
    return (x - path.sigma / total * _mixed(pool)) / path.alpha


def warn_few_steps(steps: int) -> None:
    """Say how far below 50 steps the weights can be trusted."""
    if steps < 50:
        warnings.warn(_FEW.format(steps=steps), stacklevel=2)


def _mixed(pool: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([b * epsilon for b, epsilon in pool]).sum(0)


def _clock(path: Gaussian | None) -> float:
    """Growth of log SNR over a transition; 0 where it is none or infinite."""
    if path is None or path.alpha == 0 or path.sigma_next == 0:
        return 0.0
    return 2 * math.log(path.alpha_next / path.alpha * path.sigma / path.sigma_next)


def _squares(values: Tensor) -> Tensor:
    return values.double().flatten(1).square().sum(1).cpu()


def _log_start(total: float, size: int, sigma: float) -> float:
    r"""$\log \int N(x; 0, \sigma^2)^B dx$ in `size` dimensions."""
    power = 2 * math.pi * sigma**2
    return size * (math.log(power / total) - total * math.log(power)) / 2


def _kernel(x: Tensor, epsilon: Tensor, path: Gaussian, zeta: float) -> Kernel:
    """`sde_step` for any noise level; above 1 as much of it as the step can carry."""
    ratio = path.alpha / path.alpha_next * path.sigma_next / path.sigma
    fresh = min(zeta**2 * max(1 - ratio**2, 0.0), 1.0)
    drift = path.alpha_next / path.alpha * (x - path.sigma * epsilon)
    mean = drift + path.sigma_next * math.sqrt(1 - fresh) * epsilon
    return Kernel(mean, path.sigma_next * math.sqrt(fresh))

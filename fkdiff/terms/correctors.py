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
    it is exact for any m and v. Tilts add the change of their log-twists (a Feynman-Kac ratio).

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
        self, x: Tensor, path: Gaussian, pool: Sequence[tuple[float, Tensor]], first: bool
    ) -> Move:
        """One transition of N rows.

        Arguments:
            x: State, shape (N, *); in the first transition already scaled by B^(-1/2).
            path: Coefficients before and after.
            pool: Exponents and noise predictions, the latter of shape (N, *).
            first: Whether the run starts here, where the starting law's normaliser is due.
        """
        total, size = sum(b for b, _ in pool), x[0].numel()
        d = torch.zeros(len(x), dtype=torch.float64)
        if path.alpha == 0:
            # Without signal all experts agree, and the weights' clock log SNR hasn't started.
            scaled = x * (path.sigma_next / path.sigma)
            return Move(Kernel(scaled, 0.0), d + _log_start(total, size, path.sigma_next))
        d -= self.exponent * (total - 1) * size * math.log(path.alpha_next / path.alpha)
        if first:
            d += _log_start(total, size, path.sigma)
        if path.sigma_next == 0:
            estimate = pool_estimate(x, path, pool)
            return Move(Kernel(path.alpha_next * estimate, 0.0), d)
        mixed = _mixed(pool)
        clock = 2 * math.log(path.alpha_next / path.alpha * path.sigma / path.sigma_next)
        change = _squares(mixed) - sum(b * _squares(epsilon) for b, epsilon in pool)
        change = change * clock / 2
        kernel = _kernel(x, mixed, path, self._zeta(total))
        if total != 1 if self.control is None else self.control:
            shift, work = self._controlled(x, mixed, path, (total - 1) * clock / 2)
            kernel, change = Kernel(kernel.mean + shift, kernel.std), change + work
        return Move(kernel, d + self.exponent * change)

    def _zeta(self, total: float) -> float:
        return total**-0.5 if self.zeta == "tempered" else float(self.zeta)

    def _controlled(
        self, x: Tensor, mixed: Tensor, path: Gaussian, share: float
    ) -> tuple[Tensor, Tensor]:
        """Shift of the mean and what it adds to the log-weights, for (B - 1) / 2 of the clock."""
        mean, variance = (
            v.to(x) if isinstance(v, Tensor) else torch.tensor(v).to(x)
            for v in (self.mean, self.variance)
        )
        total = path.alpha**2 * variance + path.sigma**2
        gain = (share * path.sigma**2 / total).expand(x.shape[1:])
        shift = gain * (x - path.alpha * mean)
        work = (
            gain.double().sum() - (shift.double() * mixed.double()).flatten(1).sum(1) / path.sigma
        )
        return shift, work.cpu()


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

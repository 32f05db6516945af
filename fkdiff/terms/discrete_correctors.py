r"""Discrete Feynman-Kac correctors: annealing, guidance and products of masked diffusion models.

The target at level $\alpha$ is $\tilde p_\alpha(x) = \prod_j q_{j,\alpha}(x)^{b_j}$, where
$q_{j,\alpha}(x) = \alpha^{n_u} (1 - \alpha)^{n_m} q_j(x_u)$ for $n_u$ uncovered tokens $x_u$ and
$n_m$ masks. With $\nu = -\dot\alpha / \alpha$, $\rho = \alpha / (1 - \alpha)$, $B = \sum_j b_j$,
$Z_i(x) = \sum_v \prod_j p_j(v \mid x)^{b_j}$, position i is uncovered at rate
$c\, \nu \rho^B Z_i$, to v in proportion to $\prod_j p_j(v \mid x)^{b_j}$, for

$$\frac{d \log w}{d\tau} = \nu \Big[\sum_{i\ \mathrm{masked}} (c \rho^B Z_i - B \rho)
+ (B - c)\, n_u\Big]$$

with any $c(t) > 0$. The published c = B makes heavy tails. $c = B (1 + \rho) / (1 + \rho^B \bar
Z)$ makes the weights constant for independent tokens of mass $\bar Z$.

Here the weights are those of finite steps, to which the rate above is the limit: uncovering with
probability $u_i = 1 - e^{-H Z_i}$, against masking again with probability m,

$$\log w = n_u(x) \log\frac{\alpha'^B (1 - m)}{\alpha^B}
+ \sum_{i\ \mathrm{stays}} \Big[ B \log\frac{1 - \alpha'}{1 - \alpha} + H Z_i \Big]
+ \sum_{i\ \mathrm{uncovered}} \log\frac{\alpha'^B\, m\, Z_i}{(1 - \alpha)^B\, u_i}$$

Tokens uncovered in one step are drawn one after the other, $Z_i$ being that of the moment, so
that no number of steps leaves an error.

References:
    | Discrete Feynman-Kac Correctors (Hasan et al., 2026), arXiv 2601.10403
    | Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts
    | (Skreta et al., 2025), arXiv 2503.02819
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fkdiff.processes.tokens import TokenStep
from fkdiff.terms.step import Expert
from fkdiff.terms.term import Weightless

__all__ = ["DiscreteCorrect", "Pace", "PoolLaw", "jump_increment", "pace", "pool_law"]


@dataclass(frozen=True)
class DiscreteCorrect(Weightless):
    r"""Carry the weights that make a pool of masked models reach $\prod_j q_j^{b_j}$.

    Exact for experts that are the conditionals of a joint law, for any number of steps; `log_z`
    reports $\log \sum_x e^{h(x)} \prod_j q_j(x)^{b_j}$. The conditionals of most masked language
    models share no joint law: for them it is a heuristic.

    Arguments:
        rate: The rate scale c(t): "pilot" takes $\bar Z$ at each step from a small run of its
            own; "published" is c = B; a number is $\bar Z$ at all steps; "live" takes $\bar Z$
            from the running cloud, which saves the pilot and costs exactness of order 1/K.
        pilot: Particles of the pilot run, at least 2.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | Discrete Feynman-Kac Correctors (Hasan et al., 2026), arXiv 2601.10403
    """

    rate: Literal["pilot", "published", "live"] | float = "pilot"
    pilot: int = 32

    def __post_init__(self) -> None:
        named = self.rate in ("pilot", "published", "live")
        if not named and not (isinstance(self.rate, int | float) and 0 < self.rate < math.inf):
            raise ValueError(
                f"rate must be 'pilot', 'published', 'live' or a positive number, "
                f"got {self.rate!r}"
            )
        if self.pilot < 2:
            raise ValueError(f"pilot must be at least 2 particles, got {self.pilot}")

    @property
    def needs(self) -> frozenset[str]:
        """Predictions of tokens."""
        return frozenset({"scores", "tokens"})

    @property
    def steers(self) -> bool:
        """Weights differ from the first transition on."""
        return True

    @property
    def target(self) -> str:
        """Where the weights lead."""
        return "prod q_j^b_j, for experts that are conditionals of joint laws"


@dataclass(frozen=True)
class PoolLaw:
    r"""The pool at every position.

    Arguments:
        p: $\prod_j p_j(v)^{b_j} / Z_i$, shape (N, L, V).
        log_mass: $\log Z_i$, shape (N, L), float64.
    """

    p: Tensor
    log_mass: Tensor


def pool_law(experts: Sequence[Expert]) -> PoolLaw:
    """Posteriors of the pool from the experts' logits (N, L, V).

    >>> half = Expert("cond", 2.0, torch.zeros(1, 1, 2))
    >>> law = pool_law([half])
    >>> law.p.tolist(), round(law.log_mass.exp().item(), 3)
    ([[[0.5, 0.5]]], 0.5)
    """
    first = experts[0].output.double().log_softmax(-1)
    never = first.isneginf()
    log_p = experts[0].b * first.masked_fill(never, 0)
    for expert in experts[1:]:
        other = expert.output.double().log_softmax(-1)
        # What any expert forbids is forbidden: a negative power must not make it certain.
        never = never | other.isneginf()
        log_p = log_p + expert.b * other.masked_fill(other.isneginf(), 0)
    log_p = log_p.masked_fill(never, -math.inf)
    return PoolLaw(log_p.softmax(-1), log_p.logsumexp(-1))


@dataclass(frozen=True)
class Pace:
    """How fast a step uncovers tokens.

    Arguments:
        hazard: H, inf where all must be uncovered.
        back: m, probability of masking again in the reversed step.
    """

    hazard: float
    back: float

    def uncovered(self, mass: Tensor) -> Tensor:
        r"""$u_i = 1 - e^{-H Z_i}$, shape of the mass."""
        return -torch.expm1(-self.hazard * mass) if self.hazard < math.inf else mass * 0 + 1


def pace(step: TokenStep, total: float, mass: float | None) -> Pace:
    r"""The pace that makes weights constant for independent tokens of mass $\bar Z$.

    A position is then masked with probability $\mu = 1 / (1 + \rho^B \bar Z)$ at each level.

    Arguments:
        step: Levels.
        total: B, positive.
        mass: $\bar Z$, positive; None for the published c = B.

    Example:
        >>> pace(TokenStep(0.0, 0.5), 1.0, 1.0)
        Pace(hazard=0.6931..., back=1.0)
    """
    if mass is None:
        back = 1 - (step.alpha / step.alpha_next) ** total
        return Pace(total * _integral(step, total), back)
    here, after = (_masked(a, total, mass) for a in (step.alpha, step.alpha_next))
    back = (here - after) / (1 - after)
    if after == 0:
        return Pace(math.inf, back)
    return Pace(math.log(here / after) / mass, back)


def _masked(alpha: float, total: float, mass: float) -> float:
    if alpha in (0.0, 1.0):
        return 1 - alpha
    return 1 / (1 + math.exp(total * math.log(alpha / (1 - alpha)) + math.log(mass)))


def _integral(step: TokenStep, total: float) -> float:
    r"""$\int \rho^{B - 1} / (1 + \rho)\, d\rho$ over the step, by the trapezium rule."""
    if step.alpha_next == 1:
        return math.inf
    end = math.log(step.alpha_next / (1 - step.alpha_next))
    start = math.log(step.alpha / (1 - step.alpha)) if step.alpha else end - 40 / total
    log_rho = torch.linspace(start, end, 2001, dtype=torch.float64)
    return float(torch.trapezoid((total * log_rho).exp() / (1 + log_rho.exp()), log_rho))


def jump_increment(
    masked: Tensor,
    jumps: Tensor,
    mass: Tensor,
    log_mass_drawn: Tensor,
    step: TokenStep,
    total: float,
    at: Pace,
    open_before: Tensor,
) -> Tensor:
    """Log-weight of one step, shape (N,), float64; the formula is the module's.

    Arguments:
        masked: Which positions were masked before the step, shape (N, L), bool.
        jumps: Which of them it uncovers, shape (N, L), bool.
        mass: Z_i before the step, shape (N, L), float64.
        log_mass_drawn: log Z_i at the moment when the token was drawn, same shape; 0 elsewhere.
        step: Levels.
        total: B.
        at: The pace.
        open_before: Tokens drawn before the step, shape (N,); given ones don't count.
    """
    stays = masked & ~jumps
    d = torch.zeros(len(masked), dtype=torch.float64)
    if open_before.any():
        d += open_before * (total * math.log(step.alpha_next / step.alpha) + _log(1 - at.back))
    if stays.any():
        kept = total * math.log((1 - step.alpha_next) / (1 - step.alpha))
        d += torch.where(stays, kept + at.hazard * mass, 0.0).sum(1)
    each = total * (math.log(step.alpha_next) - math.log(1 - step.alpha)) + _log(at.back)
    gained = each + log_mass_drawn - at.uncovered(mass).clamp(min=1e-300).log()
    return d + torch.where(jumps, gained, 0.0).sum(1)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf

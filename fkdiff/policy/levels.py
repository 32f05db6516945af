r"""The noise levels a policy was trained on, and the few of them that a decision visits.

Everything comes from the user's scheduler, so that a shortened run stays on the trained schedule:
the step from one visited level to the next uses both their $(\alpha, \sigma)$.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fkdiff.processes import PREDICTIONS, Gaussian

__all__ = ["Levels", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What one decision runs: the timesteps given to the denoiser, and a transition for each.

    Arguments:
        timesteps: One an evaluation.
        path: One transition an evaluation, usually ending at (1, 0).
        eta: Noise of the solver in [0, 1]: 0 is DDIM (Euler on a flow), 1 is DDPM.
    """

    timesteps: tuple[float, ...]
    path: tuple[Gaussian, ...]
    eta: float

    def __len__(self) -> int:
        return len(self.path)


@dataclass(frozen=True)
class Levels:
    r"""T noise levels, from the least to the most noise, and what the denoiser predicts.

    Arguments:
        timesteps: What the denoiser is given at each level, shape (T,).
        alpha: Signal coefficients, falling.
        sigma: Noise coefficients, rising, positive.
        prediction: "epsilon", "v_prediction", "flow_prediction" or "sample".
        eta: Noise of the solver, 1 for DDPM and 0 for DDIM and flow matching.
        clip: Bound of the clean estimate, None for none.

    Raises:
        ValueError: If a setting is out of range, or noise is all there is at the last level and
            noise is predicted.
    """

    timesteps: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    prediction: str = "epsilon"
    eta: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise ValueError(f"prediction must be one of {known}, got {self.prediction!r}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}; 0 is DDIM, 1 is DDPM")
        pairs = list(zip(self.alpha, self.sigma, strict=True))
        if not pairs or any(b[0] * a[1] >= a[0] * b[1] for a, b in pairwise(pairs)):
            raise ValueError(
                "levels must rise in sigma / alpha; is this scheduler's table sorted?"
            )
        if self.prediction == "epsilon" and self.alpha[-1] == 0:
            raise ValueError(
                "alpha must be above 0 at the last level to predict noise, got 0; "
                "use a schedule that isn't rescaled to zero terminal signal"
            )

    def __len__(self) -> int:
        return len(self.alpha)

    @classmethod
    def of(cls, scheduler: Any, eta: float | None = None) -> "Levels":
        """The trained levels of a diffusers scheduler.

        Those with `alphas_cumprod` (DDPM, DDIM, DPM-Solver and others share their training) and
        flow matching are known. DDPM steps with fresh noise, all others without.

        Arguments:
            scheduler: A diffusers scheduler; it isn't changed.
            eta: Noise of the solver in [0, 1], None for the scheduler's own.

        Raises:
            ValueError: If the scheduler's levels or steps can't be read.

        Example:
            >>> from diffusers import DDPMScheduler
            >>> levels = Levels.of(DDPMScheduler(100, beta_schedule="squaredcos_cap_v2"))
            >>> len(levels), round(levels.sigma[25], 2), levels.plan(20, 2).timesteps
            (100, 0.41, (19, 9))
        """
        config = scheduler.config
        _check_steps(config, type(scheduler).__name__)
        if hasattr(scheduler, "alphas_cumprod"):
            power = scheduler.alphas_cumprod.double()
            timesteps = range(len(power))
            alpha, sigma = power.sqrt().tolist(), (1 - power).sqrt().tolist()
            prediction = config.get("prediction_type", "epsilon")
        else:
            train = type(scheduler).from_config(config)  # set_timesteps overwrites the table
            sigma = train.sigmas.double().tolist()[
                :: -1 if train.sigmas[0] > train.sigmas[-1] else 1
            ]
            sigma = [value for value in sigma if value > 0]
            timesteps = [value * config["num_train_timesteps"] for value in sigma]
            alpha, prediction = [1 - value for value in sigma], "flow_prediction"
        if eta is None:
            eta = 1.0 if type(scheduler).__name__.startswith("DDPM") else 0.0
        clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None
        return cls(tuple(timesteps), tuple(alpha), tuple(sigma), prediction, eta, clip)

    def plan(self, start: int, evaluations: int | None = None) -> Plan:
        """Evenly spaced levels from K' down, then the clean chunk.

        Arguments:
            start: K' in [1, T], how many levels to undo; T starts from pure noise.
            evaluations: Denoiser calls, at most K'; None visits every level.

        Raises:
            ValueError: If an argument is out of range.
        """
        if not 1 <= start <= len(self):
            raise ValueError(f"start must be in [1, {len(self)}], the trained levels, got {start}")
        if evaluations is not None and evaluations < 1:
            raise ValueError(f"evaluations must be at least 1, got {evaluations}")
        count = start if evaluations is None else min(evaluations, start)
        levels = [round(start * (count - i) / count) - 1 for i in range(count)]
        return self._visit(levels, [self._pair(k) for k in [*levels[1:], -1]])

    def skipping(self, levels: Sequence[int]) -> Plan:
        """The published list: it skips levels, but each step goes down by one level only.

        Kept for comparison: after a skip the denoiser is given a level that the chunk isn't at.

        Arguments:
            levels: Levels to visit, falling, counted from 0.
        """
        if not levels or min(levels) < 0 or max(levels) >= len(self):
            raise ValueError(f"levels must be in [0, {len(self)}), got {list(levels)}")
        return self._visit(levels, [self._pair(k - 1) for k in levels])

    def _visit(self, levels: Sequence[int], ends: Sequence[tuple[float, float]]) -> Plan:
        path = [Gaussian(*self._pair(k), *end) for k, end in zip(levels, ends, strict=True)]
        return Plan(tuple(self.timesteps[k] for k in levels), tuple(path), self.eta)

    def _pair(self, level: int) -> tuple[float, float]:
        return (self.alpha[level], self.sigma[level]) if level >= 0 else (1.0, 0.0)


def _check_steps(config: Any, name: str) -> None:
    if config.get("thresholding"):
        raise ValueError(f"{name} has dynamic thresholding, which isn't supported; switch it off")
    if str(config.get("variance_type", "fixed_small")) not in ("fixed_small", "fixed_small_log"):
        raise ValueError(
            f"variance_type of {name} must be fixed_small or fixed_small_log, "
            f"got {config['variance_type']!r}; or use DDIMScheduler.from_config(scheduler.config)"
        )
    known = "num_train_timesteps" in config
    if not known or config.get("stochastic_sampling") or config.get("invert_sigmas"):
        raise ValueError(f"{name} isn't a scheduler whose levels are known; try DDIMScheduler")

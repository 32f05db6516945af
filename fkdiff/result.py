"""What a steered run leaves behind: a weighted cloud per prompt, and what it cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkdiff.terms.cost import Cost

__all__ = ["Cost", "Result", "Trace"]


@dataclass(frozen=True)
class Trace:
    """What happened at one transition, per prompt.

    Arguments:
        index: Transition, counted from 0.
        alpha: Signal coefficient before the transition.
        sigma: Noise coefficient before the transition.
        ess: Effective sample size after reweighting and before resampling, shape (P,).
        resampled: Whether the prompt's particles were resampled, shape (P,), bool.
        rewards: Reward estimates by name, shape (P, K), float64; empty where none was needed.
        variance: Variance over the particles of what a corrector added to the log-weights,
            shape (P,), float64; None without a corrector.
    """

    index: int
    alpha: float
    sigma: float
    ess: Tensor
    resampled: Tensor
    rewards: dict[str, Tensor]
    variance: Tensor | None = None


@dataclass
class Result:
    r"""A weighted cloud of K particles for each of P prompts.

    Expectations under the target are $\sum_k W_k f(x_k)$ with $W = \mathrm{softmax}(\log w)$; an
    unweighted mean over the particles is not one.

    Arguments:
        prompts: The P prompts (class labels or empty strings for pipelines without text).
        latents: Final latents, shape (P, K, *), in the slots' order.
        samples: Decoded samples, shape (P, K, *), values in [0, 1] for images; None where
            nothing had to be decoded, or the network was at work when the run ended early.
        log_w: Unnormalised log-weights, shape (P, K), float64.
        rewards: Final rewards by name (steering rewards and monitors), shape (P, K).
        log_twist: Final log-twist, shape (P, K), float64: scale times the calibrated reward.
        rows: Ancestor rows of each transition, (N,) int64 or None where nothing moved.
        trace: One entry per transition.
        selected: Slots returned for each prompt, in the order returned, shape (P, M).
        target: What law the weighted cloud stands for, in words.
        settings: Constructor arguments and call, ready for JSON.
        seed: Seed of all the generators.
        cost: What the run spent.
        complete: False for a run cut short by an error or an interrupt.
    """

    prompts: list[str]
    latents: Tensor
    samples: Tensor | None
    log_w: Tensor
    rewards: dict[str, Tensor]
    log_twist: Tensor
    rows: list[Tensor | None]
    trace: list[Trace]
    selected: Tensor
    target: str
    settings: dict[str, Any]
    seed: int
    cost: Cost
    complete: bool = True

    @property
    def log_z(self) -> Tensor:
        r"""Log-normaliser $\log \hat Z = \mathrm{logsumexp}(\log w) - \log K$, shape (P,)."""
        particles = torch.tensor(self.log_w.shape[1], dtype=torch.float64)
        return torch.logsumexp(self.log_w, dim=1) - particles.log()

    @property
    def weights(self) -> Tensor:
        """Normalised weights, shape (P, K), float64, rows sum to 1."""
        return torch.softmax(self.log_w, dim=1)

    @property
    def ess(self) -> Tensor:
        r"""Effective sample size $1 / \sum_k W_k^2$ of the final cloud, shape (P,)."""
        return 1 / self.weights.square().sum(dim=1)

    @property
    def order(self) -> Tensor:
        """Slots sorted by final log-twist, best first, shape (P, K), int64."""
        return torch.argsort(self.log_twist, dim=1, descending=True, stable=True)

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean of per-particle values of shape (P, K, *), giving (P, *)."""
        weights = self.weights.to(values).reshape(*self.log_w.shape, *[1] * (values.ndim - 2))
        return (weights * values).sum(dim=1)

    def ancestors(self) -> Tensor:
        """Slot at the first transition that each final particle descends from, shape (P, K)."""
        prompts, particles = self.log_w.shape
        origin = torch.arange(prompts * particles)
        for rows in self.rows:
            if rows is not None:
                origin = origin[rows]
        return origin.reshape(prompts, particles) % particles

    def save(self, folder: str | Path, plain: "Result | None" = None, command: str = "") -> Path:
        """Write pictures, numbers, tensors and `report.html` into a folder; returns the report.

        Arguments:
            folder: Where to; created if need be, an earlier run in it is replaced.
            plain: The same call unsteered, to show beside this one.
            command: Command line that made the run, if one did.

        Raises:
            OSError: If the folder can't be written to.
        """
        from fkdiff.report import save  # the one upward arrow: a result saves itself

        return save(self, folder, plain, command)

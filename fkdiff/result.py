"""What a steered run leaves behind: a weighted cloud per prompt, and what it cost."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fkdiff.terms.cost import Cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

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


@dataclass(repr=False)
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
        seed: Seed of all the generators; None where the call was given one for each particle.
        cost: What the run spent.
        complete: False for a run cut short by an error or an interrupt.
        repair: Effective sample size of the last step's repair alone, shape (P,), where a Tilt has
            a greedy potential (see `RepairWarning`), else None.
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
    seed: int | None
    cost: Cost
    complete: bool = True
    repair: Tensor | None = None

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

    def split(self) -> "list[Result]":
        """A result for each prompt, as of a run of its own.

        Each has an even share of the cost, and says in its settings with how many prompts it was
        drawn. With a seed for each prompt (`steer(seed=[...])`), each has its own; prompts that
        share one have streams of their own, and only the first would be drawn the same alone.
        """
        prompts, particles = self.log_w.shape
        return [
            self._of(prompt, slice(prompt * particles, (prompt + 1) * particles), cost)
            for prompt, cost in enumerate(self.cost.shares(prompts))
        ]

    def _of(self, prompt: int, rows: slice, cost: Cost) -> "Result":
        here = slice(prompt, prompt + 1)
        settings, seed = _settings_of(self.settings, prompt, len(self.prompts)), self.seed
        if "seeds" in settings:
            seed = settings["seeds"][0]
            if len(self.settings["seeds"]) == len(self.prompts):
                del settings["seeds"]
        return replace(
            self,
            prompts=self.prompts[here],
            latents=self.latents[here],
            samples=None if self.samples is None else self.samples[here],
            log_w=self.log_w[here],
            rewards={name: values[here] for name, values in self.rewards.items()},
            log_twist=self.log_twist[here],
            rows=[None if r is None else _moved(r[rows] - rows.start) for r in self.rows],
            trace=[_trace_of(entry, here) for entry in self.trace],
            selected=self.selected[here],
            settings=settings,
            seed=seed,
            cost=cost,
            repair=None if self.repair is None else self.repair[here],
        )

    def __repr__(self) -> str:
        """Return the run in one line: its size, how far it collapsed and its best rewards."""
        prompts, particles = self.log_w.shape
        ess = " ".join(f"{value:.1f}" for value in self.ess.tolist()[:4])
        best = [
            f"best {name} {float(v.max()):.4g}" for name, v in self.rewards.items() if v.numel()
        ]
        parts = [f"{prompts} prompt{'s' * (prompts != 1)} x {particles} particles"]
        repair = [] if self.repair is None else [f"repair ESS {float(self.repair.min()):.1f}"]
        parts += [f"{len(self.trace)} transitions", f"ESS {ess}", *repair, *best]
        return f"<Result: {', '.join(parts)}{'' if self.complete else ', incomplete'}>"

    def _repr_html_(self) -> str:
        from fkdiff.report.notebook import as_html

        return as_html(self)

    def plot(self, prompt: int = 0) -> "Figure":
        """Return a figure of one prompt's rewards, effective sample size and lineage by step.

        Arguments:
            prompt: Which prompt, counted from 0.

        Raises:
            ValueError: If there is no such prompt, or no transition was recorded.
        """
        from fkdiff.report.plots import course_figure

        if not 0 <= prompt < len(self.prompts):
            raise ValueError(f"prompt must be 0 to {len(self.prompts) - 1}, got {prompt}")
        if not self.trace:
            raise ValueError("result must have at least one transition to plot, it has none")
        return course_figure(self, prompt)

    def to_pandas(self) -> "DataFrame":
        """Return a table of the final particles, a row for each, prompts in turn, best first.

        Columns: prompt, slot, ancestor, returned, weight, log_twist and a column for each reward.

        Raises:
            ImportError: If pandas isn't installed.
        """
        try:
            from pandas import DataFrame
        except ImportError:
            raise ImportError("to_pandas() needs pandas; pip install pandas") from None
        from fkdiff.report.facts import ranked

        rows = [{**row, **row.pop("rewards")} for row in ranked(self)]
        return DataFrame([{**row, "prompt": self.prompts[row["prompt"]]} for row in rows])

    @classmethod
    def load(cls, folder: str | Path) -> "Result":
        """Return the result that `save` wrote into a folder; pictures are rounded to 1/255.

        Raises:
            ValueError: If the folder holds no run, a damaged one, or one of a later version.
        """
        from fkdiff.report.loading import load

        return load(folder)

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


def _moved(rows: Tensor) -> Tensor | None:
    """Rows of one prompt, None where only those of others moved."""
    return None if torch.equal(rows, torch.arange(len(rows))) else rows


def _trace_of(entry: Trace, here: slice) -> Trace:
    return replace(
        entry,
        ess=entry.ess[here],
        resampled=entry.resampled[here],
        rewards={name: values[here] for name, values in entry.rewards.items()},
        variance=None if entry.variance is None else entry.variance[here],
    )


def _settings_of(settings: dict[str, Any], prompt: int, prompts: int) -> dict[str, Any]:
    """Settings of a run of one prompt: what they list for each of several is its own alone."""

    def own(name: str, value: Any) -> Any:
        listed = isinstance(value, list) and not len(value) % prompts
        if not (listed and re.fullmatch(r"(negative_)?prompt(_\d)?|class_labels|seeds", name)):
            return value
        each = len(value) // prompts
        return value[prompt * each : (prompt + 1) * each]

    if prompts == 1:
        return dict(settings)
    found = {name: own(name, value) for name, value in settings.items()}
    found["call"] = {name: own(name, value) for name, value in settings.get("call", {}).items()}
    others = f"{prompts - 1} other prompt{'s' * (prompts > 2)}"
    return {**found, "together": f"drawn with {others}; cost is an even share"}

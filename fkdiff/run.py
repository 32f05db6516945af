"""One steered run: reweight, resample and keep the books, once per transition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.processes.streams import Seed, prompt_generators
from fkdiff.result import Result, Trace
from fkdiff.smc import Cloud, Resample
from fkdiff.terms.consistency import check_first, rewards_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.repair import repair_ess, warn_of_repair
from fkdiff.terms.reward import Reward
from fkdiff.terms.step import Step
from fkdiff.terms.term import State, Term
from fkdiff.terms.trial import StandIn, check_agreed, stand_in_of, try_rewards

__all__ = ["SELECTS", "Run", "Watch"]

Watch = Callable[[Step, Trace], None]
SELECTS = ("best", "sample", "all")


@dataclass(frozen=True)
class _Seen:
    """What is left of a finished transition; the step itself holds whatever the network made.

    Arguments:
        x_next: Where the particles are, shape (N, *).
        scores: What was scored, by reward name, (P, K).
    """

    x_next: Tensor
    scores: dict[str, Tensor]


@dataclass
class Run:
    """The engine that a tap calls: owns the cloud, the terms' states and the record.

    Arguments:
        prompts: The P prompts.
        particles: K.
        terms: Their log-twists are summed.
        resample: When and how to resample, None never.
        monitor: Rewards that are reported on final samples and never steered on.
        select: Which particles come out: "best", "sample" (weighted draws) or "all".
        wanted: Samples returned for each prompt.
        seed: Seed of every stream, one for all prompts or one for each.
        cost: What is spent.
        watch: Called after each transition, before particles move.
        shards: Which particles are here; None where all are. The engine is the same on every
            process, and decides the same.
    """

    prompts: list[str]
    particles: int
    terms: Sequence[Term]
    resample: Resample | None
    monitor: Sequence[Reward]
    select: str
    wanted: int
    seed: Seed
    cost: Cost
    watch: Watch | None = None
    shards: Shards = None  # pyright: ignore[reportAssignmentType]  # __post_init__ fills it in
    cloud: Cloud = field(init=False)
    trace: list[Trace] = field(default_factory=list)
    selected: Tensor | None = None
    returned: Tensor | None = None
    repair: Tensor | None = None
    _states: list[State] = field(default_factory=list)
    _twists: list[Tensor] = field(default_factory=list)
    _last: Step | _Seen | None = None
    _latents: Tensor | None = None
    _rewards: dict[str, Tensor] = field(default_factory=dict)
    _samples: Tensor | None = None
    _untried: list[Reward] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (len(self.prompts), self.particles)
        self.shards = self.shards or Shards(*shape)
        self._streams = prompt_generators(self.seed, len(self.prompts), "resampling")
        self.cloud = Cloud(*shape, self.resample, self._streams)
        self._states = [term.start(len(self.prompts) * self.particles) for term in self.terms]
        self._twists = [torch.zeros(shape, dtype=torch.float64) for _ in self.terms]

    @cached_property
    def texts(self) -> list[str]:
        """The prompt of each row here, for rewards."""
        return [*chain.from_iterable([text] * len(self.shards.slots) for text in self.prompts)]

    @property
    def log_w(self) -> Tensor:
        """Carried log-weights, shape (P, K)."""
        return self.cloud.log_w

    @property
    def resamples(self) -> bool:
        """Whether weights can differ before the end, so that resampling can fire."""
        return (
            self.resample is not None
            and self.particles > 1
            and any(term.steers for term in self.terms)
        )

    def may_resample(self, index: int, total: int) -> bool:
        """Whether the trigger could fire at this transition."""
        return (
            self.resamples and self.resample is not None and self.resample.may_fire(index, total)
        )

    def try_rewards(
        self,
        stand_in: Callable[[str], StandIn | None],
        context: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        """Try every reward and monitor before anything is drawn.

        Those that can't be tried yet, for want of the samples' very shape, are tried at the first
        transition. `Cost.seconds` has the time as `trial`; the calls aren't counted.

        Arguments:
            stand_in: Two samples for what a reward reads, None where none can be made up.
            context: Their context; by default the prompts.

        Raises:
            TrialError: If a reward can't score them.
        """
        self._untried = self._try([*rewards_of(self.terms), *self.monitor], stand_in, context)

    def _try(
        self,
        rewards: Sequence[Reward],
        stand_in: Callable[[str], StandIn | None],
        context: Mapping[str, Sequence[Any]] | None = None,
    ) -> list[Reward]:
        """Try rewards; returns those that have to be tried again."""
        if not rewards:
            return []
        context = context or {"prompts": [self.prompts[0], self.prompts[-1]]}
        with self.cost.time("trial"):
            trials = try_rewards(rewards, stand_in, context)
        check_agreed(trials, self.shards)
        return [t.reward for t in trials if t.values is None and not t.exact]

    def transition(self, step: Step) -> Tensor | None:
        """Reweight by the correction and the change of the log-twists, then resample.

        On the final transition the rows to return are chosen instead: the cloud stays as it is in
        the record, and the pipeline goes on with those that come out, `returned`.
        """
        if step.index == 0:
            check_first(self.terms, step)
        if self._untried:
            untried, self._untried = self._untried, []
            self._try(untried, lambda inputs: stand_in_of(step, inputs))
        self._last = step
        before = list(self._twists)
        increments = [] if step.correction is None else [step.correction]
        for i, term in enumerate(self.terms):
            twist, self._states[i] = term.log_twist(step, self._states[i])
            dead = self._twists[i] == -torch.inf  # such a particle has weight zero already
            increments.append(torch.where(dead, 0.0, twist - self._twists[i]))
            self._twists[i] = twist
        if increments:
            self.cloud.reweight(_sum(increments, self.log_w))
        if step.final and self.resamples:
            self.repair = repair_ess(self.terms, before, self._twists)
            warn_of_repair(self.repair, self.particles)
        ess = self.cloud.ess
        with self.cost.time("resample"):
            rows = self.cloud.resample(step.index, step.total)
        self._record(step, ess, rows)
        if self.watch is not None:
            self.watch(step, self.trace[-1])
        if step.final:
            rows = self._finish(step, rows)
        elif rows is not None:
            self._permute(rows)
        self._last = _Seen(step.x_next, step.scores)
        return rows

    def status(self) -> dict[str, str]:
        """Effective sample size (mean over prompts) and best reward, for the progress bar."""
        if not self.terms:
            return {}
        shown = {"ess": f"{float(self.cloud.ess.mean()):.1f}/{self.particles}"}
        if self.trace and self.trace[-1].rewards:
            values = next(iter(self.trace[-1].rewards.values()))
            shown["best"] = f"{float(values.max()):.3f}"
        return shown

    def state(self) -> dict[str, Any]:
        """What the run remembers, for a snapshot, beside its `history`."""
        return {
            "log_w": self.log_w,
            "streams": [stream.get_state() for stream in self._streams],
            "states": [dict(state) for state in self._states],
            "twists": list(self._twists),
        }

    def history(self, since: int) -> list[dict[str, Any]]:
        """What each transition from `since` on has left: parent rows and trace."""
        moved = zip(self.cloud.lineage[since:], self.trace[since:], strict=True)
        return [{"rows": rows, **vars(entry)} for rows, entry in moved]

    def restore(self, saved: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """Go on from a `state` and the `history` before it."""
        self.cloud.log_w = saved["log_w"].reshape(self.log_w.shape)
        self.cloud.lineage = [entry["rows"] for entry in history]
        for stream, state in zip(self._streams, saved["streams"], strict=True):
            stream.set_state(state)
        self._states, self._twists = list(saved["states"]), list(saved["twists"])
        self.trace = [
            Trace(**{name: value for name, value in entry.items() if name != "rows"})
            for entry in history
        ]

    def _permute(self, rows: Tensor) -> None:
        self._states = [{k: v[rows] for k, v in state.items()} for state in self._states]
        self._twists = [t.flatten()[rows].reshape(t.shape) for t in self._twists]

    def _record(self, step: Step, ess: Tensor, rows: Tensor | None) -> None:
        moved = torch.zeros(len(self.prompts), dtype=torch.bool)
        if rows is not None:
            stay = torch.arange(len(rows))
            moved = (rows != stay).reshape(self.log_w.shape).any(dim=1)
        alpha, sigma = (step.path.alpha, step.path.sigma) if step.path else (0.0, 0.0)
        spread = None if step.correction is None else step.correction.var(dim=1, correction=0)
        self.trace.append(Trace(step.index, alpha, sigma, ess, moved, dict(step.scores), spread))

    def _finish(self, step: Step, rows: Tensor | None) -> Tensor:
        """Score the monitors, put the last resampling into the record, choose what comes out.

        The rows to `return` are put in order when the run is over; until then they stay where
        they are, and the others give way to one of them.
        """
        for reward in self.monitor:
            step.score(reward)
        kept = torch.arange(self.log_w.numel()) if rows is None else rows
        shape = self.log_w.shape
        self._permute(kept)
        self._latents = self.shards.share(step.x_next, kept)
        self._rewards = {k: v.flatten()[kept].reshape(shape) for k, v in step.scores.items()}
        self._samples = step.decoded_samples(kept)
        self.selected = self._choose()
        starts = torch.arange(shape[0])[:, None] * shape[1]
        self.returned = kept[(self.selected + starts).flatten()]
        return self.shards.at_home(self.returned)

    def _choose(self) -> Tensor:
        """Slots to return for each prompt, shape (P, M)."""
        if self.select == "sample":
            weights = self.cloud.weights
            draws = [
                torch.multinomial(w, self.wanted, replacement=True, generator=g)
                for w, g in zip(weights, self._streams, strict=True)
            ]
            return torch.stack(draws)
        order = torch.argsort(self.twist, dim=1, descending=True, stable=True)
        return order if self.select == "all" else order[:, : self.wanted]

    @property
    def twist(self) -> Tensor:
        """Sum of the terms' log-twists, shape (P, K), float64."""
        return _sum(self._twists, self.log_w)

    def result(self, target: str, settings: dict[str, Any]) -> Result | None:
        """The record so far; None before the first transition."""
        step = self._last
        if step is None:
            return None
        complete = self.selected is not None
        latents, samples = self._latents, self._samples
        if isinstance(step, Step) and self.shards.world == 1:
            samples = step.decoded_samples()
        if latents is None:  # the other processes may be gone, and their rows with them
            latents = self.shards.alone(step.x_next)
        shape = self.log_w.shape
        return Result(
            prompts=list(self.prompts),
            latents=latents.detach().cpu().reshape(*shape, *latents.shape[1:]),
            samples=None if samples is None else samples.cpu().reshape(*shape, *samples.shape[1:]),
            log_w=self.log_w,
            rewards=self._rewards if complete else dict(step.scores),
            log_twist=self.twist,
            rows=list(self.cloud.lineage),
            trace=list(self.trace),
            selected=self.selected if self.selected is not None else self._choose(),
            target=target,
            settings=settings,
            seed=self.seed if isinstance(self.seed, int) else self.seed[0],
            cost=self.cost.over(self.shards) if complete else self.cost,
            complete=complete,
            repair=self.repair,
        )


def _sum(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Sum in an order of its own, so that the terms' order doesn't change its last bit."""
    if len(parts) > 2:
        return torch.stack(list(parts)).sort(dim=0).values.sum(dim=0)
    return sum(parts, torch.zeros_like(like))  # two summands have no order

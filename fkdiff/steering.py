"""`steer`: a stock pipeline as a weighted particle sampler."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.distributed import ProcessGroup

from fkdiff.processes.shards import Shards, agreed_seed
from fkdiff.processes.streams import Seed
from fkdiff.refusals import check_drawn, check_read, check_shared
from fkdiff.result import Result
from fkdiff.run import SELECTS, Run, Watch
from fkdiff.smc import Resample
from fkdiff.taps import PipelineTap, TapError
from fkdiff.taps.arguments import Expanded, expand
from fkdiff.taps.exclusive import sole_use
from fkdiff.taps.families import check_family
from fkdiff.taps.results import all_pictures, share_rows
from fkdiff.taps.seeds import Seeds
from fkdiff.taps.snapshots import Keeper, Snapshots, held
from fkdiff.taps.token_arguments import expand_tokens
from fkdiff.taps.token_families import draws_tokens, token_tap
from fkdiff.taps.tokens import TokenTap
from fkdiff.taps.weights import weights_mark
from fkdiff.terms.consistency import (
    as_terms,
    check_names,
    check_needs,
    check_pool,
    rewards_of,
    stated_target,
    tilts,
)
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import peak_memory
from fkdiff.terms.reward import Reward, as_reward
from fkdiff.terms.term import Term

__all__ = ["Steered", "steer"]

_PROVIDED = ("x0", "decode", "scores", "uncond", "kernel", "pipeline")
_version_of = functools.cache(version)  # which reads a package's metadata


def steer(
    pipe: Any,
    *terms: Term,
    particles: int = 4,
    resample: Resample | None = Resample(),
    stochastic: bool | None = None,
    micro_batch: int | None = None,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: int | Sequence[int] | None = None,
    watch: Watch | None = None,
    keep: Snapshots | str | Path | None = None,
    group: ProcessGroup | None = None,
) -> "Steered":
    r"""Make a pipeline draw weighted particles that stand for the terms' stated target.

    The pipeline itself isn't changed: it is tapped while a call lasts and put back after.

    Arguments:
        pipe: Any diffusers pipeline with a scheduler and a `unet` or `transformer`.
        terms: What the samples should be, such as `Tilt(reward)`, `RLGuidance("adapter", 1.6)`,
            `Anneal(1.2)`, `Product("another prompt", 0.5)` and `Correct()`, in any order; none
            gives a plain run.
        particles: K, particles for each prompt, at least 1.
        resample: When and how to resample; None gives importance sampling.
        stochastic: What to do where copies of a particle can't separate: None replaces a
            deterministic step by the marginal-preserving SDE step if resampling can fire, False
            refuses, True always replaces.
        micro_batch: Particles per network call and decode, None for all at once.
        monitor: Rewards that are reported and never steered on.
        select: Which particles come out: "best" (largest log-twist, the default with
            Tilts), "sample" (weighted draws, the default without), or "all" (best first).
        seed: Seed of every random stream. Several, one for each prompt, draw each prompt as its
            seed draws it alone, in any company; one for each particle of each prompt, each picture
            so. Without it a generator given to the call supplies it, by its state, and goes on by
            a draw; a list holds one for each prompt, or one for each particle of each prompt,
            which then draws that particle's noise as in a stock call.
        watch: Called with the step and its trace after each transition, to show a run while it
            lasts; what it raises ends the run.
        keep: Folder in which the state is kept after each transition (or `Snapshots` of
            `fkdiff.taps.snapshots`, which say how often); a call that finds one of the same
            settings and weights there goes on from it and ends bit for bit the same. Needs a
            seed. With a group, a folder that all processes see.
        group: Processes of torch.distributed that share the particles of every prompt, None for
            this one alone. Each makes the same call on a pipeline of its own, and gets the whole
            output. The same seed and micro-batch give the bits of one process on as many threads;
            without `micro_batch`, those of one whose micro-batch is what fits a process's share.

    Returns:
        A callable that takes the pipeline's own arguments and returns its own output type, with
        the whole cloud in `.steering`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If a term isn't one, or `group` isn't a group that this process is in.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848
    """
    usual = "best" if tilts(as_terms(terms)) else "sample"
    return Steered(
        pipe=pipe,
        terms=terms,
        particles=particles,
        resample=resample,
        stochastic=stochastic,
        micro_batch=micro_batch,
        monitor=tuple(as_reward(r) for r in monitor),
        select=usual if select is None else select,
        seed=seed,
        watch=watch,
        keep=Snapshots.of(keep),
        group=group,
    )


@dataclass
class Steered:
    """A steered pipeline, made by `steer`; call it as the pipeline itself.

    Arguments:
        pipe: The pipeline.
        terms: The terms.
        particles: K.
        resample: Settings of the resampling, None for none.
        stochastic: See `steer`.
        micro_batch: See `steer`.
        monitor: Rewards that are only reported.
        select: "best", "sample" or "all".
        seed: Seed, None to take the call's generator or a fresh one.
        watch: See `steer`.
        keep: Where the state is kept, None for nowhere.
        group: See `steer`.
        partial: Record of the last run, also of one that failed; None before the first step.
        sources: Where adapters came from, by name, for the record.
    """

    pipe: Any
    terms: tuple[Term, ...]
    particles: int
    resample: Resample | None
    stochastic: bool | None
    micro_batch: int | None
    monitor: tuple[Reward, ...]
    select: str
    seed: int | Sequence[int] | None
    watch: Watch | None = field(default=None, repr=False)
    keep: Snapshots | None = None
    group: ProcessGroup | None = None
    partial: Result | None = field(default=None, repr=False)
    sources: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles must be at least 1, got {self.particles}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1, got {self.micro_batch}")
        if self.select not in SELECTS:
            raise ValueError(f"select must be one of {', '.join(SELECTS)}, got {self.select!r}")
        self.terms = as_terms(self.terms)
        check_pool(self.terms, self.stochastic)
        check_names(self._rewards)
        check_family(self.pipe)
        if draws_tokens(self.pipe):
            check_drawn(self.pipe, self.terms, self.stochastic, self.keep, self.group)
        else:
            check_needs(self.terms, _PROVIDED, type(self.pipe).__name__)

    @property
    def target(self) -> str:
        """What law the weighted cloud stands for."""
        stated = stated_target(self.terms)
        if self.resample is not None and self.resample.scheme == "beam" and self.terms:
            stated += "; heuristic: a beam keeps the best and has no law"
        return stated

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pipeline; returns its own output type, with the cloud in `.steering`.

        With `return_dict=False`, or a modular pipeline's `output=name`, the record comes last in
        a tuple.

        Raises:
            TapError: If this pipeline or scheduler can't be steered as asked, with the remedy, or
                is in a steered run already.
            RewardError: If a reward fails; `partial` keeps what was made.
            PeerError: If another process of the group fails or is lost.
        """
        with sole_use(self.pipe):
            return self._drawn(args, kwargs)

    def _drawn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.partial = None
        as_tuple = kwargs.pop("return_dict", True) is False
        name = kwargs.pop("output", None)  # what a modular pipeline returns in place of its state
        binds = expand_tokens if draws_tokens(self.pipe) else expand
        expanded = binds(self.pipe, args, kwargs, self.particles)
        if expanded.wanted > self.particles:
            raise ValueError(
                f"{expanded.key} must be at most particles={self.particles}, "
                f"got {expanded.wanted}; raise particles"
            )
        shape = len(expanded.prompts), self.particles
        seeds = Seeds.of(self.seed, expanded.generator, *shape, self.group is not None)
        if seeds.number is None and self.keep is not None:
            raise ValueError("seed must be given with keep, or no later call draws the same")
        settings = {**self._settings(expanded), **seeds.settings}
        about = repr([expanded.prompts, seeds.several, settings["call"]])
        seed: Seed = agreed_seed(self.group, seeds.number, about)
        if seeds.several is not None and seeds.apart(len(expanded.prompts)):
            seed = seeds.several
        shards = Shards(*shape, self.group, self.micro_batch)
        if self.group is not None:
            check_shared(self.pipe, expanded)
            expanded = expand(self.pipe, args, kwargs, self.particles, shards.slots)
            settings["processes"] = shards.world
        run = self._run(expanded, seed, shards)
        tap = self._tap(expanded, run, seeds.streams(seed, *shape))
        check_read(self.pipe, tap, self._rewards)
        with torch.no_grad(), shards.watched():
            run.try_rewards(tap.stand_in)
        try:
            with run.cost.time("total"), held(self.keep, shards.rank), shards.watched():
                if isinstance(tap, PipelineTap) and self.keep is not None:
                    tap.keeper = self._keeper(self.keep, expanded, settings, run)
                output = tap()
                if run.returned is None:
                    raise TapError(
                        "the run ended before its last timestep, so its weights are incomplete; "
                        "leave out interrupts"
                    )
                share_rows(output, shards, run.returned)
        finally:
            run.cost.peak_memory_mb = peak_memory() / 2**20
            settings["replaced_step"] = tap.replaced
            if tap.micro_batch != self.micro_batch:
                settings["micro_batch"] = tap.micro_batch
                settings["out_of_memory"] = f"went on with micro_batch={tap.micro_batch}"
            self.partial = run.result(self.target, settings)
            if self.partial is not None and seeds.own is not None:
                self.partial.seed = None  # no number draws what the user's generators drew
        if self.partial is not None and self.partial.samples is None and self.select == "all":
            self.partial.samples = all_pictures(output, run.selected)
        if name is not None:
            return output.get(name), self.partial
        output.steering = self.partial
        return (*output.to_tuple(), self.partial) if as_tuple else output

    def _run(self, expanded: Expanded, seed: Seed, shards: Shards) -> Run:
        return Run(
            prompts=expanded.prompts,
            particles=self.particles,
            terms=self.terms,
            resample=self.resample,
            monitor=self.monitor,
            select=self.select,
            wanted=expanded.wanted,
            seed=seed,
            cost=Cost(),
            watch=self.watch,
            shards=shards,
        )

    def _tap(
        self, expanded: Expanded, run: Run, streams: list[torch.Generator]
    ) -> PipelineTap | TokenTap:
        settings: dict[str, Any] = {
            "expanded": expanded,
            "particles": len(run.shards.slots),
            "generators": [streams[row] for row in run.shards.rows.tolist()],
            "engine": run,
            "resamples": run.resamples,
            "micro_batch": self.micro_batch,
            "cost": run.cost,
        }
        if draws_tokens(self.pipe):
            return token_tap(self.pipe, **settings)
        more = {"stochastic": self.stochastic, "terms": self.terms, "shards": run.shards}
        more["apart"] = not isinstance(run.seed, int) and len(run.prompts) > 1
        return PipelineTap(self.pipe, **settings, **more)

    def _keeper(
        self, keep: Snapshots, expanded: Expanded, settings: dict[str, Any], run: Run
    ) -> Keeper:
        known = {
            "seed": run.seed,
            "prompts": expanded.prompts,
            "call": dict(expanded.arguments),
            "wanted": expanded.wanted,
            "weights": weights_mark([self.pipe, *self.terms]),
            # With another micro-batch processes hold other rows.
            **({} if self.group is None else {"slots": run.shards.limits}),
        }
        kept = {name: value for name, value in settings.items() if name != "monitor_code"}
        return Keeper(keep, {**kept, **known}, run.shards)

    @property
    def _rewards(self) -> list[Reward]:
        return [*rewards_of(self.terms), *self.monitor]

    def _settings(self, expanded: Expanded) -> dict[str, Any]:
        return {
            "pipeline": type(self.pipe).__name__,
            "scheduler": type(self.pipe.scheduler).__name__,
            "model": getattr(self.pipe, "name_or_path", None),
            "particles": self.particles,
            "terms": [repr(term) for term in self.terms],
            **({"adapters": dict(self.sources)} if self.sources else {}),
            "resample": repr(self.resample),
            "stochastic": self.stochastic,
            "micro_batch": self.micro_batch,
            "monitor": [reward.name for reward in self.monitor],
            "monitor_code": [repr(reward) for reward in self.monitor],
            "select": self.select,
            "call": {k: v for k, v in expanded.arguments.items() if _plain(v)},
            "versions": {n: _version_of(n) for n in ("torch", "diffusers", "transformers")},
        }


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, str | int | float | bool)

"""The pipeline tap: one stock call, watched transition by transition."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes import Kernel
from fkdiff.processes.shards import Shards
from fkdiff.processes.streams import copies
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.capture import time_in
from fkdiff.taps.coefficients import TapError, as_predicted
from fkdiff.taps.companions import Companions, check_companion
from fkdiff.taps.composition import Composition
from fkdiff.taps.conditioning import Conditioning, kept_conditioning
from fkdiff.taps.decode_once import memoised_decode
from fkdiff.taps.denoiser import NetworkCall, tapped_denoiser
from fkdiff.taps.engine import Engine
from fkdiff.taps.exclusive import others_refused
from fkdiff.taps.experts import TappedPool
from fkdiff.taps.families import predictions
from fkdiff.taps.feeding import chunked_feeding
from fkdiff.taps.guidance import split_guidance
from fkdiff.taps.late_edits import LateEdits
from fkdiff.taps.outputs import rows_of
from fkdiff.taps.own_steps import OwnSteps
from fkdiff.taps.pool_moves import PoolMoves, opened_moves
from fkdiff.taps.pool_step import PoolStep
from fkdiff.taps.postprocess import sliced_postprocess
from fkdiff.taps.preparing import prompts_apart
from fkdiff.taps.regions import TappedRegions
from fkdiff.taps.results import cut_pictures
from fkdiff.taps.row_axes import RowAxes
from fkdiff.taps.samples import Samples
from fkdiff.taps.scheduler import Call, path_between, permute_call, tapped_scheduler
from fkdiff.taps.shadowing import own_ranking_off, untapped, watched_progress
from fkdiff.taps.snapshots import Keeper
from fkdiff.taps.sources import Sources
from fkdiff.taps.stand_ins import stand_in_of_call
from fkdiff.taps.timesteps import Pair, transitions_ahead
from fkdiff.taps.walks import continued
from fkdiff.terms.clock import progress_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.regions import regions_of
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term
from fkdiff.terms.trial import StandIn

__all__ = ["PipelineTap", "TapError"]


@dataclass(frozen=True)
class _Opening:
    """What began a transition: its first call, which solvers of order two follow by another."""

    call: Call
    kernel: Kernel | None
    outputs: list[Tensor]
    flat: PoolStep | None


@dataclass
class PipelineTap:
    """Runs a pipeline's own call with N = P * K rows and hands each transition to an engine.

    Where several processes share the cloud, each calls its pipeline with the rows it holds.

    Arguments:
        pipe: The pipeline; restored on exit, on error and on interrupt.
        expanded: Arguments of the call.
        particles: K, or as many of them as are here.
        generators: One CPU generator a row here.
        engine: Weighs and resamples.
        stochastic: Replace a step that can't separate copies: None where resampling can fire,
            True always, False never (then a step that can't is refused).
        resamples: Whether resampling can fire at all.
        micro_batch: Particles per network call, decode and reward, None for all.
        cost: Counts what is spent.
        terms: Terms, of which those that edit or correct the pool concern the tap.
        keeper: Saves the run after its transitions, or goes on with a saved one.
        shards: Which rows are here; None where all are.
        apart: Whether texts are encoded a prompt at a time, as each prompt's own call would.
        index: Transitions made so far.
        parents: Rows of the run that the last transition continued, (N,), None where none moved.
        origin: Row that each of the run's rows began in, (N,).
        own: Takes the steps that replace the scheduler's.
        kept: What the pipeline prepared for each row.
        moves: The pool's part in the run, None where no term concerns it.
    """

    pipe: Any
    expanded: Expanded
    particles: int
    generators: Sequence[torch.Generator]
    engine: Engine
    stochastic: bool | None
    resamples: bool
    micro_batch: int | None
    cost: Cost
    terms: Sequence[Term] = ()
    keeper: Keeper | None = None
    shards: Shards = None  # pyright: ignore[reportAssignmentType]  # __post_init__ fills it in
    apart: bool = False
    index: int = field(default=0, init=False)
    parents: Tensor | None = field(default=None, init=False)
    origin: Tensor = field(init=False)
    own: OwnSteps = field(init=False)
    kept: Conditioning = field(init=False)
    moves: PoolMoves | None = field(default=None, init=False)
    _samples: Samples = field(init=False)
    _companions: Companions = field(init=False)
    _late: LateEdits = field(init=False)
    _axes: RowAxes | None = field(init=False)
    _scheduler: Any = field(default=None, init=False)
    _bar: Any = field(default=None, init=False)
    _outputs: list[Tensor] = field(default_factory=list, init=False)
    _opening: _Opening | None = field(default=None, init=False)
    _watching: bool = field(default=True, init=False)
    _memory: dict[str, bool] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.shards = self.shards or Shards(len(self.expanded.prompts), self.particles)
        self.origin = torch.arange(self.engine.log_w.numel())
        self.own = OwnSteps(self.generators, self.engine, self.stochastic, self.resamples)
        self.kept = Conditioning(self._rows)
        self._companions = Companions(self._rows, self._move)
        self._late = LateEdits(self.pipe, self.expanded.arguments, self.shards, self._on_last)
        term, starts = regions_of(self.terms), copies(self.generators)
        alpha = term is not None and term.recording
        self._samples = Samples(self.pipe, self.expanded, starts, self.cost, alpha)
        self._axes = RowAxes.of(self.pipe, self.expanded, starts)

    def __call__(self) -> Any:
        """Make the call; returns the pipeline's own output for all rows."""
        pipe, self._scheduler = self.pipe, self.pipe.scheduler
        with ExitStack() as stack:
            enter = stack.enter_context
            self.moves = enter(opened_moves(self._composition()))
            watched = self._on_step, self._before, self._check_companion
            enter(tapped_scheduler(pipe, self.generators, *watched))
            held = self, self.cost, self._on_call, self._axes
            enter(tapped_denoiser(pipe, self.shards, *held))
            self._memory = enter(memoised_decode(pipe, self, self._samples.count))
            enter(sliced_postprocess(pipe, self))
            enter(prompts_apart(pipe, self.expanded.inputs, self.generators, self.apart))
            enter(chunked_feeding(pipe, self.shards, self))
            enter(watched_progress(pipe, self._on_bar))
            enter(own_ranking_off(pipe))
            self.kept = enter(kept_conditioning(pipe, self.shards, self.expanded.arguments))
            enter(others_refused(pipe))
            output = pipe(**self._late.arguments, generator=list(self.generators))
            self._late.finish()
            if self._samples.alpha:
                cut_pictures(output, self._samples.cut)
            return output

    def _composition(self) -> Composition:
        """The pool of experts, with the two prompts of a term of regions."""
        sources = Sources(self.pipe, self.terms, self.expanded, self._samples.starts)
        term = regions_of(self.terms)
        if term is not None:
            self._samples.regions = TappedRegions(
                pipe=self.pipe,
                term=term,
                expanded=self.expanded,
                starts=self._samples.starts,
                shards=self.shards,
                holder=self,
                axes=self._axes,
            )
        pool = TappedPool(sources, self._samples.regions)
        return Composition(pool, self.shards, self, self.cost)

    @property
    def _rows(self) -> int:
        return len(self.generators)

    @property
    def replaced(self) -> str | None:
        """Which step was replaced by which; None for the scheduler's own."""
        return self.own.replaced

    @property
    def repeatable(self) -> bool:
        """Whether a network call may be made again: one whose attention is recorded may not."""
        regions = self._samples.regions
        return regions is None or not regions.recording

    @property
    def readable(self) -> tuple[str, ...]:
        """What rewards may read."""
        return self._samples.readable

    @property
    def by_row(self) -> bool:
        """Whether `decode` asks which rows of the run it is given."""
        return self._samples.by_row

    @property
    def inputs(self) -> str:
        """What `decode` yields: "pixels", "video" or "audio"."""
        return self._samples.inputs

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Latents (n, *) as a reward reads them; see `Samples.decode`."""
        return self._samples.decode(latents, inputs, rows)

    def stand_in(self, inputs: str) -> StandIn | None:
        """Two made-up samples of what the call yields; see `stand_in_of_call`."""
        return stand_in_of_call(self.pipe, self.expanded.arguments, inputs)

    def _before(self, scheduler: Any, arguments: dict[str, Any], pair: Pair | None) -> None:
        skipping = self.keeper is not None and self.keeper.skipping
        if self.moves is not None and not skipping:
            self.moves.before(scheduler, arguments, pair)

    def _on_call(self, call: NetworkCall) -> Any:
        if self.keeper is not None and self.keeper.skipping:
            return self.keeper.answer(call)
        asked = self.moves is not None and self.moves.composition.asking
        if asked or not self._watching:  # by a function of the pool, or by a reward
            return call.evaluate(call.bound)
        pool = None if self.moves is None else self.moves.pool
        if pool is not None and self.index == 0 and not (self._outputs or self._opening):
            total = transitions_ahead(self.pipe.scheduler, time_in(call.bound))
            pool.progress = progress_of(0, total)
        output = call.evaluate(call.bound) if pool is None else pool.answer(call)
        self._samples.template = output
        self._outputs.append(rows_of(output))
        return output

    def _on_bar(self, bar: Any) -> None:
        self._bar = bar

    def _on_step(self, call: Call) -> None:
        if not call.first:
            self._check_companion()
            self._companions.join(call)
            return
        if self.keeper is not None and self.keeper.skipping:
            self.keeper.skip(self, call)
            return
        kernel = self.own.kernel(call, self.moves, self.kept.masked)
        if self._opening is None:
            flat = None if self.moves is None else self.moves.flat
            self._opening = _Opening(call, kernel, self._outputs, flat)
        self._outputs = []
        if call.last and self._late.expected:
            self._late.wait(call)
        elif call.last:
            self._on_last(call, None)
        else:
            self._companions.turn(self._on_transition(call) if call.moved else None)
            if call.moved and self.keeper is not None:
                self.keeper.keep(self, call)

    def _on_last(self, call: Call, edited: Tensor | None) -> Tensor | None:
        """Weigh the last transition; its rows as callbacks left them, or as inpainting does."""
        own = call.output["prev_sample"]
        call.output["prev_sample"] = self.kept.blend(own) if edited is None else edited
        self._memory["keep"] = True
        self._companions.turn(chosen := self._on_transition(call))
        return chosen

    def _check_companion(self) -> None:
        corrected = self.moves is not None and self.moves.corrector is not None
        check_companion(type(self.pipe).__name__, corrected, self.keeper is not None)

    def _on_transition(self, call: Call) -> Tensor | None:
        """Let the engine weigh what has moved, and continue the rows that it chooses."""
        opening, self._opening = self._opening, None
        assert opening is not None
        step = self._step(call, opening)
        self._watching = False
        with untapped(self.pipe, self._scheduler):
            chosen = self.engine.transition(step)
        self._watching = True
        if self._bar is not None:
            self._bar.set_postfix(self.engine.status(), refresh=False)
        self.index += 1
        if self.moves is not None and not step.final:
            self.moves.pool.progress = progress_of(self.index, step.total)
        self.parents = chosen
        if chosen is not None:
            self._permute(call, chosen, opening.outputs)
        return chosen

    def _step(self, call: Call, opening: _Opening) -> Step:
        first, rows, log_w = opening.call, self._rows, self.engine.log_w
        correction = self.own.take_correction()
        return Step(
            index=self.index,
            total=call.transitions,
            x=first.sample[:rows],
            x_next=call.output["prev_sample"][:rows],
            path=path_between(first.pair, call.next_pair),
            prompts=self.shards.prompts,
            particles=self.shards.particles,
            context={"prompts": [p for p in self.expanded.prompts for _ in range(self.particles)]},
            log_w=log_w,
            may_resample=self.engine.may_resample(self.index, call.transitions),
            parents=torch.arange(log_w.numel()) if self.parents is None else self.parents,
            source=self,
            estimate=lambda: self._estimate(call),
            pool=lambda: self._experts(opening),
            kernel=opening.kernel,
            correction=None
            if correction is None
            else self.shards.gather(correction).reshape(log_w.shape),
            seed=self.engine.seed,
            shards=self.shards,
        )

    def _estimate(self, call: Call) -> Tensor:
        own = None if self.moves is None else self.moves.estimate()
        return self.kept.blend(call.x0(self._rows) if own is None else own)

    def _experts(self, opening: _Opening) -> tuple[Expert, ...]:
        """The pool's flat list, or the guided pair that the pipeline mixed."""
        if opening.flat is not None:
            return tuple(opening.flat.experts)
        first, rows = opening.call, self._rows
        mixed = as_predicted(first.scheduler, first.arguments["model_output"])
        sigma = first.pair[1] if first.pair else 0.0
        outputs = predictions(self.pipe, opening.outputs, first.sample[:rows], sigma)
        return split_guidance(outputs, mixed, rows, self.shards)

    def _permute(self, call: Call, chosen: Tensor, outputs: list[Tensor]) -> None:
        """Continue `chosen` rows in what the scheduler returned, and in all that goes with it."""
        self.origin, given = self.origin[chosen], (*call.arguments.values(), *call.output.values())
        given = (*given, *self._companions.ended.values())
        if self.shards.world == 1:
            self._samples.origin = self.origin
        moved = [*outputs, *(value for value in given if isinstance(value, Tensor))]

        def walk(pick: Callable[[Tensor], Tensor]) -> None:
            permute_call(call, pick)
            self.kept.permute(pick, moved)
            if self._samples.regions is not None:
                self._samples.regions.permute(pick)

        continued(walk, chosen, self.shards)

    def _move(self, call: Call, chosen: Tensor) -> None:
        """Continue `chosen` rows in the step of another of the pipeline's schedulers."""
        continued(lambda pick: permute_call(call, pick), chosen, self.shards)

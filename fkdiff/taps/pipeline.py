"""The pipeline tap: one stock call, watched transition by transition."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes import Gaussian, Kernel, sde_step
from fkdiff.processes.shards import Shards
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.coefficients import TapError, as_predicted, estimate_x0, separates_copies
from fkdiff.taps.conditioning import Conditioning, kept_conditioning
from fkdiff.taps.decode import decoder_for, memoised_decode, null_run, yields
from fkdiff.taps.denoiser import NetworkCall, split_guidance, tapped_denoiser
from fkdiff.taps.engine import Engine
from fkdiff.taps.experts import TappedPool
from fkdiff.taps.families import predictions
from fkdiff.taps.feeding import chunked_feeding
from fkdiff.taps.pool_moves import PoolMoves, opened_moves
from fkdiff.taps.pool_step import PoolStep
from fkdiff.taps.postprocess import sliced_postprocess
from fkdiff.taps.regions import TappedRegions
from fkdiff.taps.results import cut_pictures
from fkdiff.taps.scheduler import Call, permute_history, tapped_scheduler
from fkdiff.taps.shadowing import own_ranking_off, watched_progress
from fkdiff.taps.snapshots import Keeper
from fkdiff.terms.cost import Cost
from fkdiff.terms.regions import Regions, regions_of
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term

__all__ = ["Engine", "PipelineTap", "TapError"]

_logger = logging.getLogger(__name__)


Pair: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class _Opening:
    """What began a transition: its first call, which solvers of order two follow by another."""

    call: Call
    kernel: Kernel | None
    outputs: list[Tensor]
    pool: PoolStep | None


@dataclass
class PipelineTap:
    """Runs a pipeline's own call with N = P * K rows and hands each transition to an engine.

    Where several processes share the cloud, each calls its pipeline with the rows that it holds.

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
    replaced: str | None = None
    bar: Any = None
    _scheduler: Any = None
    _outputs: list[Tensor] = field(default_factory=list)
    _openings: list[_Opening] = field(default_factory=list)
    _template: Any = None
    _parents: Tensor | None = None
    _origin: Tensor | None = None
    _watching: bool = True
    _moves: int = 0
    _replace: bool | None = None
    _memo: dict[str, bool] = field(default_factory=dict)
    _kept: Conditioning = field(default_factory=lambda: Conditioning(1))
    _seeds: list[int] = field(default_factory=list)
    _pool: PoolMoves | None = None
    _correction: Tensor | None = None

    def __post_init__(self) -> None:
        self.shards = self.shards or Shards(len(self.expanded.prompts), self.particles)

    def __call__(self) -> Any:
        """Make the call; returns the pipeline's own output for all rows."""
        with ExitStack() as stack:
            self._scheduler = self.pipe.scheduler
            self._seeds = [g.initial_seed() for g in self.generators]
            rows = len(self.generators)
            self._origin = torch.arange(self.engine.log_w.numel())
            pool = TappedPool(
                *(self.pipe, self.terms, self.expanded, self._seeds),
                *(self.shards, self.micro_batch, self.cost),
            )
            term = regions_of(self.terms)
            if term is not None:
                pool.regions = TappedRegions(
                    *(self.pipe, term, self.expanded, self._seeds),
                    *(self.shards, self),
                )
            self._pool = stack.enter_context(opened_moves(pool))
            stack.enter_context(
                tapped_scheduler(self.pipe, self.generators, self._on_step, self._before)
            )
            stack.enter_context(
                tapped_denoiser(self.pipe, self.shards, self, self.cost, self._on_call)
            )
            self._memo = stack.enter_context(memoised_decode(self.pipe, self, self._count_decodes))
            stack.enter_context(sliced_postprocess(self.pipe, self))
            stack.enter_context(chunked_feeding(self.pipe, self.shards, self))
            stack.enter_context(watched_progress(self.pipe, self._on_bar))
            stack.enter_context(own_ranking_off(self.pipe))
            self._kept = stack.enter_context(kept_conditioning(self.pipe, rows))
            output = self.pipe(**self.expanded.arguments, generator=list(self.generators))
            if self._cuts:
                with self.cost.time("matte"):
                    cut_pictures(output, self._cut)
            return output

    @property
    def repeatable(self) -> bool:
        """Whether a network call may be made again: one whose attention is recorded may not."""
        regions = None if self._pool is None else self._pool.pool.regions
        return regions is None or regions.maps is None or not regions.maps.recording

    @property
    def _cuts(self) -> bool:
        """Whether pictures come out with alpha."""
        term = regions_of(self.terms)
        return term is not None and term.recording

    def _cut(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of rows (n,) of the run with alpha, (n, 4, h, w)."""
        term, regions = regions_of(self.terms), None
        if self._pool is not None:
            regions = self._pool.pool.regions
        assert isinstance(term, Regions) and regions is not None and regions.maps is not None
        maps = regions.maps.maps(rows)
        return term.matte(pixels, maps)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def readable(self) -> tuple[str, ...]:
        """What rewards may read."""
        cut = self._cuts and self.inputs == "pixels"
        return ("latents", self.inputs, *(("rgba",) if cut else ()))

    @property
    def inputs(self) -> str:
        """What `decode` yields: "pixels", "video" or "audio"."""
        return yields(self.pipe)

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Latents (n, *) as a reward reads them, sliced by `micro_batch`.

        Arguments:
            latents: Clean latents.
            inputs: What the reward reads.
            rows: Rows of the run that they are, (n,), for pictures with alpha.

        Raises:
            TapError: If the pipeline can't yield `inputs`.
        """
        if inputs == "latents":
            return latents
        if inputs == "rgba" and inputs in self.readable and rows is not None:
            pixels = self.decode(latents, "pixels")
            with self.cost.time("matte"):
                return self._cut(pixels, rows)
        if inputs != self.inputs:
            name = type(self.pipe).__name__
            raise TapError(f"{name} yields {self.inputs}, but a reward reads {inputs}")
        decoder = decoder_for(self.pipe)
        with self.cost.time("decode"), torch.no_grad():
            if decoder is None:
                arguments = self._decode_arguments(len(latents))
                return null_run(self.pipe, self._scheduler, arguments, self._template, latents)
            if getattr(self.pipe, "vae", None) is None:
                self._count_decodes(len(latents))
            return decoder.run(self.pipe, latents, self.expanded.arguments).float()

    def _decode_arguments(self, rows: int) -> dict[str, Any]:
        given = dict(self.expanded.arguments)
        for name in ("callback_on_step_end", "latents"):
            given.pop(name, None)
        if self.expanded.key:
            given[self.expanded.key] = rows
            if "prompt" in given:
                given["prompt"] = self.expanded.prompts[0]
        else:
            given = {k: v[:1] * rows if isinstance(v, list) else v for k, v in given.items()}
        if "strength" in given:
            given["strength"] = 1.0  # two steps of the null run must not become none
        # Encoded images come out as in the run, and nothing is drawn from the global state.
        generators = [torch.Generator().manual_seed(s) for s in self._seeds[:rows]]
        return {**given, "output_type": "pt", "generator": generators}

    def _count_decodes(self, rows: int) -> None:
        self.cost.decodes += rows

    @property
    def _skipping(self) -> bool:
        return self.keeper is not None and self.keeper.skipping

    def _before(
        self, scheduler: Any, arguments: dict[str, Any], pair: tuple[float, float] | None
    ) -> None:
        if self._pool is not None and not self._skipping:
            self._pool.before(scheduler, arguments, pair)

    def _on_call(self, call: NetworkCall) -> Any:
        if self.keeper is not None and self.keeper.skipping:
            return self.keeper.answer(call)
        if not self._watching or (self._pool is not None and self._pool.pool.aside):
            return call.evaluate(call.bound)
        output = call.evaluate(call.bound) if self._pool is None else self._pool.pool.answer(call)
        self._template = output
        rows = output[0]
        self._outputs.append(torch.stack(rows) if isinstance(rows, list) else rows)
        return output

    def _on_bar(self, bar: Any) -> None:
        self.bar = bar

    def _on_step(self, call: Call) -> None:
        if self.keeper is not None and self.keeper.skipping:
            self.keeper.skip(self, call)
            return
        rows = len(self.generators)
        kernel = self._kernel(call, rows)
        flat = None if self._pool is None else self._pool.flat
        self._openings.append(_Opening(call, kernel, self._outputs, flat))
        self._outputs = []
        if not call.moved:
            return
        self._memo["keep"] = call.last
        if call.last:
            x = call.output["prev_sample"]
            call.output["prev_sample"] = self._kept.blend(x)
        step = self._step(call, rows, self._openings[0])
        self._openings, self._correction = [], None
        with self._aside():
            chosen = self.engine.transition(step)
        if self.bar is not None:
            self.bar.set_postfix(self.engine.status(), refresh=False)
        self._moves += 1
        if self._pool is not None:
            self._pool.pool.progress = self._moves / step.total
        self._parents = chosen
        if chosen is not None:
            self._permute(call, chosen)
        if self.keeper is not None:
            self.keeper.keep(self, call)

    def _kernel(self, call: Call, rows: int) -> Kernel | None:
        """Make the project's own step where it replaces the scheduler's."""
        if self._pool is not None and self._pool.corrector is not None:
            return self._corrected_step(call, rows, self._pool)
        if self._replace is None:
            self._replace = self._decide(call)
        return self._replaced_step(call, rows) if self._replace else None

    def _corrected_step(self, call: Call, rows: int, pool: PoolMoves) -> Kernel:
        path = _path(call.pair, call.next_pair)
        assert path is not None
        if call.position == 0:
            pool.check_start(call, masked=bool(self._kept.prepared.get("prepare_mask_latents")))
            name = type(call.scheduler).__name__
            self.replaced = f"{name}'s step replaced by the corrector's SDE step"
            _logger.info(self.replaced)
        move = pool.corrected(call, path)
        self._correction = move.d if self._correction is None else self._correction + move.d
        self._return(call, move.kernel, rows)
        return move.kernel

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Let a reward call the same pipeline: it finds the user's scheduler, and the run goes on.

        Pipelines keep a call's settings (guidance scale, interrupt flag) on themselves.
        """
        held, self._watching = dict(vars(self.pipe)), False
        self.pipe.scheduler = self._scheduler
        try:
            yield
        finally:
            vars(self.pipe).clear()
            vars(self.pipe).update(held)
            self._watching = True

    def _step(self, call: Call, rows: int, opening: _Opening) -> Step:
        total, correction = _transitions(call), self._correction
        context: Mapping[str, list[str]] = {
            "prompts": [p for p in self.expanded.prompts for _ in range(self.particles)]
        }

        def pool() -> tuple[Expert, ...]:
            if opening.pool is not None:
                return tuple(opening.pool.experts)
            first = opening.call
            mixed = as_predicted(first.scheduler, first.arguments["model_output"])
            sigma = first.pair[1] if first.pair else 0.0
            outputs = predictions(self.pipe, opening.outputs, first.sample[:rows], sigma)
            return split_guidance(outputs, mixed, rows, self.shards)

        return Step(
            index=self._moves,
            total=total,
            x=opening.call.sample[:rows],
            x_next=call.output["prev_sample"][:rows],
            path=_path(opening.call.pair, call.next_pair),
            prompts=self.shards.prompts,
            particles=self.shards.particles,
            context=context,
            log_w=self.engine.log_w,
            may_resample=self.engine.may_resample(self._moves, total),
            parents=torch.arange(self.engine.log_w.numel())
            if self._parents is None
            else self._parents,
            source=self,
            estimate=lambda: self._estimate(call, rows),
            pool=pool,
            kernel=opening.kernel,
            correction=None
            if correction is None
            else self.shards.gather(correction).reshape(self.engine.log_w.shape),
            seed=self.engine.seed,
            shards=self.shards,
        )

    def _estimate(self, call: Call, rows: int) -> Tensor:
        own = None if self._pool is None else self._pool.estimate()
        return self._kept.blend(_x0(call, rows) if own is None else own)

    def _decide(self, call: Call) -> bool:
        """Whether the project's own SDE step runs; copies must get different futures."""
        native = separates_copies(call.scheduler, call.arguments)
        # Copies made by the last transition have no future to differ in.
        early = range(_transitions(call) - 1)
        fires = self.resamples and any(self.engine.may_resample(i, len(early) + 1) for i in early)
        wanted = self.stochastic or (fires and not native)
        if not wanted or (native and self.stochastic is None):
            return False
        name = type(call.scheduler).__name__
        if self.stochastic is False:
            raise TapError(
                f"{name} is deterministic, so resampled copies would stay identical; leave "
                f"stochastic=None, or set a stochastic scheduler (DDIM: eta=1), or resample=None"
            )
        if hasattr(call.scheduler, "sigmas_interpol"):
            raise TapError(
                f"{name} evaluates between its noise levels and can't take stochastic steps; set "
                f"pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)"
            )
        self.replaced = f"{name}'s step replaced by the marginal-preserving SDE step (eta 1)"
        _logger.info(self.replaced)
        return True

    def _replaced_step(self, call: Call, rows: int) -> Kernel:
        path = _path(call.pair, call.next_pair)
        if path is None:
            raise TapError(f"{type(call.scheduler).__name__} tells no noise level; set another")
        kernel = sde_step(call.sample[:rows], _x0(call, rows), path)
        self._return(call, kernel, rows)
        return kernel

    def _return(self, call: Call, kernel: Kernel, rows: int) -> None:
        """Let the scheduler return a draw from the kernel."""
        x_next = kernel.sample(self.generators).to(call.sample.dtype)
        call.output["prev_sample"] = torch.cat([x_next] * (len(call.sample) // rows))

    def _permute(self, call: Call, chosen: Tensor) -> None:
        """Continue `chosen` rows in what the scheduler returned and in what it remembers."""
        assert self._origin is not None
        self._origin = self._origin[chosen]
        regions = None if self._pool is None else self._pool.pool.regions

        def walk(pick: Callable[[Tensor], Tensor]) -> None:
            for name, value in call.output.items():
                if isinstance(value, Tensor) and value.ndim and len(value) == len(call.sample):
                    call.output[name] = pick(value)
            permute_history(call.scheduler, call.sample, pick)
            self._kept.permute(pick)
            if regions is not None and regions.maps is not None:
                regions.maps.permute(pick)

        self.continued(walk, chosen)

    def continued(
        self, walk: Callable[[Callable[[Tensor], Tensor]], None], chosen: Tensor
    ) -> None:
        """Put the rows that are continued in the places of what a walk comes by.

        With other processes it goes twice: to see what there is, which then travels at once, and
        to put it in place.

        Arguments:
            walk: Puts what a function makes of each tensor (c n, *) in its place.
            chosen: A row for each row of the run, (N,).
        """
        if self.shards.world == 1:
            walk(lambda value: self.shards.take([value], chosen)[0])
            return
        found: list[Tensor] = []

        def seen(value: Tensor) -> Tensor:
            found.append(value)
            return value

        walk(seen)
        taken = iter(self.shards.take(found, chosen))
        walk(lambda _: next(taken))


def _transitions(call: Call) -> int:
    """Transitions of the run: a pair of calls makes one in solvers of order two."""
    return (call.calls + 1) // 2 if getattr(call.scheduler, "order", 1) == 2 else call.calls


def _path(pair: Pair | None, after: Pair | None) -> Gaussian | None:
    """Coefficients of the transition; past the last timestep no noise is left."""
    return None if pair is None else Gaussian(*pair, *(after or (1.0, 0.0)))


def _x0(call: Call, rows: int) -> Tensor:
    for name in ("pred_original_sample", "denoised"):
        own = call.output.get(name)
        if isinstance(own, Tensor):
            return own[:rows]
    output = call.arguments["model_output"]
    return estimate_x0(call.scheduler, call.index, call.pair, call.sample, output)[:rows]

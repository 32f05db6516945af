"""The pool of experts on a pipeline: evaluated beside its own network, mixed or handed over."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fkdiff.processes.shards import Shards
from fkdiff.taps.adapters import Adapters, adapter_layers, loaded_adapters
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.capture import captured, with_prompt, with_state
from fkdiff.taps.coefficients import TapError, as_predicted
from fkdiff.taps.compatible import check_network, check_pipeline, networks
from fkdiff.taps.denoiser import Guidance, NetworkCall, read_guidance, sliced
from fkdiff.taps.families import predictions
from fkdiff.taps.outputs import mixture, rows_of
from fkdiff.taps.regions import TappedRegions
from fkdiff.terms.correctors import Product
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import within_memory
from fkdiff.terms.pool import Source, compose, label
from fkdiff.terms.rl_guidance import RLGuidance
from fkdiff.terms.step import Expert
from fkdiff.terms.term import Term

__all__ = ["TappedPool"]

_BASE = "base"
_STATES = ("sample", "hidden_states", "x")
Key: TypeAlias = int | str
Found: TypeAlias = dict[Key, dict[int, Tensor]]
"""Predictions by source and by their place among a step's halves, (N, *) each."""


def _key(source: Source) -> Key:
    """A prompt or an adapter by its text, an object by itself."""
    return f"/{source}" if isinstance(source, str) else id(source)


def _is_pipeline(source: Source) -> bool:
    return hasattr(source, "scheduler") and hasattr(source, "components")


@dataclass
class TappedPool:
    """Evaluates what a run's pool terms name, at the state that the pipeline's network is shown.

    RL guidance is mixed in the network's output: whatever guidance the pipeline applies then
    applies to the mixture. Products and annealing change what the scheduler is given, for which
    the guided pair is split and the split verified.

    Arguments:
        pipe: The pipeline.
        terms: The run's terms.
        expanded: Arguments of the call.
        seeds: One for each row.
        shards: The particles here.
        micro_batch: Rows per call of a function, None for all.
        cost: Counts what is spent.
        shrink: Factor on the state of the first transition, where a corrected run starts.
        progress: Share of the run that is done.
        guidance: How the pipeline guides; None until its first step has told.
        aside: Whether a function is being asked, which may call the pipeline's network itself.
        regions: Two prompts under a mask, None for one.
    """

    pipe: Any
    terms: Sequence[Term]
    expanded: Expanded
    seeds: list[int]
    shards: Shards
    micro_batch: int | None
    cost: Cost
    shrink: float = 1.0
    progress: float = 0.0
    guidance: Guidance | None = None
    aside: bool = False
    regions: TappedRegions | None = None
    _adapters: dict[str, Adapters] = field(default_factory=dict)
    _captured: dict[Key, list[tuple[str, inspect.BoundArguments]]] = field(default_factory=dict)
    _found: Found = field(default_factory=dict)
    _calls: int = 0
    _halves: int = 0

    @property
    def _tuned(self) -> RLGuidance | None:
        return next((term for term in self.terms if isinstance(term, RLGuidance)), None)

    @property
    def _products(self) -> list[Product]:
        return [term for term in self.terms if isinstance(term, Product)]

    @contextmanager
    def opened(self) -> Iterator["TappedPool"]:
        """Prepare adapters and conditions while the block lasts; refuse what can't be had.

        Raises:
            TapError: With the expert, the rule and the remedy.
        """
        tuned = [] if self._tuned is None else list(self._tuned.sources)
        for source in tuned:
            if not isinstance(source, str | nn.Module) and not _is_pipeline(source):
                raise TapError(
                    f"tuned must be a loaded adapter, a network or a pipeline here, got "
                    f"{label(source)}; multiply by a function: Product(function, b)"
                )
        for product in self._products:
            if isinstance(product.other, str):
                arguments = with_prompt(self.pipe, self.expanded.arguments, product.other)
                self._captured[_key(product.other)] = captured(self.pipe, arguments, self.seeds)
        for source in (*tuned, *(product.other for product in self._products)):
            self._check(source)
        names = [source for source in tuned if isinstance(source, str)]
        if names:
            self._open_adapters(names)
        try:
            with self.regions.opened() if self.regions else nullcontext():
                yield self
        finally:
            for adapters in self._adapters.values():
                adapters.restore()

    def _check(self, source: Source) -> None:
        if isinstance(source, nn.Module):
            for network in networks(self.pipe).values():
                check_network(network, source)
        elif _is_pipeline(source):
            check_pipeline(self.pipe, source)
            self._captured[_key(source)] = captured(source, self.expanded.arguments, self.seeds)

    def _open_adapters(self, names: list[str]) -> None:
        mine = networks(self.pipe)
        for part, module in vars(self.pipe).items():
            if part.startswith("text_encoder") and isinstance(module, nn.Module):
                for name in loaded_adapters(module) & set(names):
                    raise TapError(
                        f"tuned must change the denoiser alone, but {name!r} also changes {part}, "
                        f"whose output both experts share; give the tuned pipeline instead"
                    )
        held = {name: net for name, net in mine.items() if adapter_layers(net)}
        for name, network in (held or mine).items():
            self._adapters[name] = Adapters(network, names)

    def answer(self, call: NetworkCall) -> Any:
        """Evaluate the pool for one call of the pipeline's network; returns what it is given."""
        bound = self._started(call.bound)
        adapters = self._adapters.get(call.name)
        try:
            parts = self._parts(call, bound, adapters)
            if adapters is not None:
                adapters.switch(adapters.base)
            for product in self._products:
                self._evaluate_other(call, bound, product.other)
        finally:
            if adapters is not None:
                adapters.switch(adapters.usual)
            if self.regions is not None:
                self.regions.forget()
        self._calls += 1
        self._halves += call.batch // self.rows
        state = next(value for name, value in bound.arguments.items() if name in _STATES)
        return mixture(parts, state)

    @property
    def rows(self) -> int:
        """N."""
        return len(self.seeds)

    def _parts(
        self, call: NetworkCall, bound: inspect.BoundArguments, adapters: Adapters | None
    ) -> list[tuple[float, Any]]:
        """Weights and outputs of the base and of tuned experts, those with weight 0 left out."""
        tuned = self._tuned
        if tuned is None:
            return [(1.0, self._evaluate_base(call, bound))]
        weights = tuned.weights(self.progress)
        if tuned.mode == "weights":
            assert adapters is not None
            return [(1.0, self._scaled(call, bound, adapters, weights))]
        parts, base = [], 1 - sum(weights.values())
        against = any(product.against for product in self._products)
        if base != 0 or against or self.regions is not None:
            if adapters is not None:
                adapters.switch(adapters.base)
            parts.append((base, self._evaluate_base(call, bound)))
        for source, weight in weights.items():
            if weight != 0:
                out = self._evaluate_tuned(call, bound, adapters, source)
                parts.append((weight, self._got(call, bound, _key(source), out)))
        return [part for part in parts if part[0] != 0]

    def _scaled(
        self,
        call: NetworkCall,
        bound: inspect.BoundArguments,
        adapters: Adapters,
        weights: Mapping[Source, float],
    ) -> Any:
        """The network with its adapters' updates scaled."""
        on = [name for name, weight in weights.items() if weight != 0]
        adapters.switch((*adapters.base, *on))
        adapters.scale(weights)
        try:
            return self._evaluate_base(call, bound)
        finally:
            adapters.scale(dict.fromkeys(weights, 1.0))

    def _evaluate_base(self, call: NetworkCall, bound: inspect.BoundArguments) -> Any:
        """The pipeline's own network, watched where attention is to be recorded."""
        regions = self.regions
        with regions.watched(self._calls, bound, self.progress) if regions else nullcontext():
            out = call.evaluate(bound)
        return self._got(call, bound, _BASE, out)

    def _got(self, call: NetworkCall, bound: inspect.BoundArguments, key: Key, out: Any) -> Any:
        """An expert's output with the background prompt's outside the mask; kept for the pool."""
        if self.regions is not None:
            out = self.regions.blended(self._calls, call, bound, out)
        self._remember(key, out)
        return out

    def _evaluate_tuned(
        self,
        call: NetworkCall,
        bound: inspect.BoundArguments,
        adapters: Adapters | None,
        source: Source,
    ) -> Any:
        if isinstance(source, str):
            if adapters is not None:  # the second of two networks may have none
                adapters.switch((*adapters.base, source))
            return call.evaluate(bound)
        if adapters is not None:
            adapters.switch(adapters.base)
        return call.evaluate(*self._elsewhere(call, bound, source))

    def _elsewhere(
        self, call: NetworkCall, bound: inspect.BoundArguments, source: Source
    ) -> tuple[inspect.BoundArguments, nn.Module | None]:
        """Arguments and network of a source that isn't an adapter."""
        network = source if isinstance(source, nn.Module) else None
        if _is_pipeline(source):
            network = networks(source)[call.name]
        if _key(source) not in self._captured:
            return bound, network
        calls = self._captured[_key(source)]
        if self._calls >= len(calls):
            raise TapError(
                f"{label(source)} makes {len(calls)} network calls a step, the run makes more; "
                f"use the same guidance for both"
            )
        return with_state(calls[self._calls][1], bound), network

    def _evaluate_other(
        self, call: NetworkCall, bound: inspect.BoundArguments, source: Source
    ) -> None:
        """Evaluate a product's expert on the conditional rows; all, until they are known."""
        if not isinstance(source, str | nn.Module) and not _is_pipeline(source):
            return  # a function, evaluated where noise levels are known
        given, network = self._elsewhere(call, bound, source)
        found = self._found.setdefault(_key(source), {})
        for half in range(call.batch // self.rows):
            place = self._halves + half
            wanted = self.guidance is None or place == self.guidance.cond
            if wanted and place not in found:
                part = sliced(given, call.batch, half * self.rows, self.rows)
                found[place] = rows_of(call.evaluate(part, network))

    def _remember(self, key: Key, out: Any) -> None:
        found = self._found.setdefault(key, {})
        for half, rows in enumerate(rows_of(out).split(self.rows)):
            found[self._halves + half] = rows

    def _started(self, bound: inspect.BoundArguments) -> inspect.BoundArguments:
        if self.shrink == 1:
            return bound
        given = dict(bound.arguments)
        for name in _STATES:
            if name in given:
                state = given[name]
                rows = [self.shrink * row for row in state]
                given[name] = rows if isinstance(state, list) else torch.stack(rows)
                break
        return inspect.BoundArguments(bound.signature, given)  # pyright: ignore[reportArgumentType]

    def experts(
        self, found: Found, scheduler: Any, x: Tensor, mixed: Tensor, pair: tuple[float, float]
    ) -> list[Expert]:
        """The flat pool of a step, with predictions of the scheduler's type and sign.

        Arguments:
            found: What `take` gave.
            scheduler: The scheduler.
            x: State, shape (N, *).
            mixed: What the pipeline gave to the scheduler, (N, *).
            pair: (alpha, sigma).

        Raises:
            TapError: If the pipeline's guidance isn't linear, or isn't the same as before.
        """
        given = {
            key: [predictions(self.pipe, [h], x, pair[1])[0] for _, h in sorted(halves.items())]
            for key, halves in found.items()
        }
        like = as_predicted(scheduler, mixed)[:, : x.shape[1]]
        weights = self._weights()
        parts = [(w, given[key]) for key, w in weights.items() if w != 0 and key in given]
        shown = given.get(_BASE, parts[0][1])
        halves = [
            torch.stack([w * outputs[i] for w, outputs in parts]).sum(0) for i in range(len(shown))
        ]
        guided = self._guided(halves, like)

        def evaluate(source: Source, branch: str) -> Tensor:
            if _key(source) not in given:
                return self._function(source, x, pair)
            outputs = given[_key(source)]
            if len(outputs) == 1:  # a product's expert, on conditional rows alone
                outputs = outputs * guided.halves
            return guided.branch(outputs, like, branch)

        return compose(self.terms, list(guided.experts(shown, like)), evaluate, self.progress)

    def _weights(self) -> dict[Key, float]:
        """Weights of the base and of the tuned experts in what the pipeline was given."""
        tuned = self._tuned
        if tuned is None or tuned.mode == "weights":
            return {_BASE: 1.0}
        weights = tuned.weights(self.progress)
        return {_BASE: 1 - sum(weights.values()), **{_key(s): w for s, w in weights.items()}}

    def _guided(self, halves: list[Tensor], like: Tensor) -> Guidance:
        """How the pipeline guides, as found in the first step and verified in each."""
        kept = self.guidance or read_guidance(halves, like, self.shards)
        self.guidance = kept
        if len(halves) >= kept.halves:
            back = torch.stack([e.b * e.output for e in kept.experts(halves, like)]).sum(0)
            if float((back - like).norm()) <= 1e-3 * float(like.norm()):
                return kept
        now = read_guidance(halves, like)
        raise TapError(
            f"guidance must be constant in time with Correct(), Anneal or Product, got "
            f"{now.g:.4g} after {kept.g:.4g}; leave out schedules and intervals of guidance"
        )

    def _function(self, source: Source, x: Tensor, pair: tuple[float, float]) -> Tensor:
        def few(size: int) -> Tensor:
            parts = self.shards.batches(size)
            answers = [source(x[part.to(x.device)], *pair) for part in parts]
            return torch.cat(answers)[torch.cat(parts).argsort()]

        spent, self.aside = self.cost.denoiser_evaluations, True
        try:
            with self.cost.time("denoise"):
                answers = within_memory(self, len(x), few)
        finally:
            self.aside = False
        if self.cost.denoiser_evaluations == spent:  # not a call of the pipeline's own network
            self.cost.denoiser_evaluations += len(x)
        return answers.to(x)

    def take(self) -> Found:
        """What was found in a step's network calls, to begin the next step with nothing."""
        found, self._found = self._found, {}
        self._calls, self._halves = 0, 0
        return found

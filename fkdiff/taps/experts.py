"""The experts of a pool, evaluated beside the pipeline's own network at each of its calls."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.taps.adapters import Adapters
from fkdiff.taps.batching import sliced
from fkdiff.taps.capture import state_in
from fkdiff.taps.denoiser import NetworkCall
from fkdiff.taps.guidance import Guidance
from fkdiff.taps.outputs import mixture, rows_of
from fkdiff.taps.regions import TappedRegions
from fkdiff.taps.sources import Sources, is_function
from fkdiff.terms.pool import Key, Source, key_of

__all__ = ["BASE", "Found", "TappedPool"]

BASE = "base"
Found: TypeAlias = dict[Key, dict[int, Tensor]]
"""Predictions by source and by their place among a step's halves, (N, *) each."""


@dataclass
class TappedPool:
    """Evaluates what a run's pool terms name, at the state that the pipeline's network is shown.

    RL guidance is mixed in the network's output: whatever guidance the pipeline applies then
    applies to the mixture. What products and annealing need is kept for `Composition`.

    Arguments:
        sources: What is evaluated.
        regions: Two prompts under a mask, None for one.
        shrink: Factor on the state of the first transition, where a corrected run starts.
        progress: Of the transition under way, in (0, 1].
        guidance: How the pipeline guides; None until its first step has told.
    """

    sources: Sources
    regions: TappedRegions | None = None
    shrink: float = 1.0
    progress: float = 1.0
    guidance: Guidance | None = None
    _found: Found = field(default_factory=dict)
    _calls: int = 0
    _halves: int = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Prepare what is evaluated while the block lasts; refuse what can't be had.

        Raises:
            TapError: With the expert, the rule and the remedy.
        """
        with self.sources.opened(), self.regions.opened() if self.regions else nullcontext():
            yield

    @property
    def rows(self) -> int:
        """N."""
        return len(self.sources.starts)

    def answer(self, call: NetworkCall) -> Any:
        """Evaluate the pool for one call of the pipeline's network; returns what it is given."""
        bound = self._started(call.bound)
        adapters = self.sources.adapters.get(call.name)
        try:
            parts = self._parts(call, bound, adapters)
            if adapters is not None:
                adapters.switch(adapters.base)
            for product in self.sources.products:
                self._evaluate_other(call, bound, product.other)
        finally:
            if adapters is not None:
                adapters.switch(adapters.usual)
            if self.regions is not None:
                self.regions.forget()
        self._calls += 1
        self._halves += call.batch // self.rows
        return mixture(parts, state_in(bound)[1])

    def take(self) -> Found:
        """What was found in a step's network calls, to begin the next step with nothing."""
        found, self._found = self._found, {}
        self._calls, self._halves = 0, 0
        return found

    def _started(self, bound: inspect.BoundArguments) -> inspect.BoundArguments:
        """The call at the state where a corrected run starts."""
        if self.shrink == 1:
            return bound
        name, state = state_in(bound)
        rows = [self.shrink * row for row in state]
        shrunk = rows if isinstance(state, list) else torch.stack(rows)
        given: Any = {**bound.arguments, name: shrunk}
        return inspect.BoundArguments(bound.signature, given)

    def _parts(
        self, call: NetworkCall, bound: inspect.BoundArguments, adapters: Adapters | None
    ) -> list[tuple[float, Any]]:
        """Weights and outputs of the base and of tuned experts, those with weight 0 left out."""
        tuned = self.sources.tuned
        if tuned is None:
            return [(1.0, self._evaluate_base(call, bound))]
        weights = tuned.weights(self.progress)
        if tuned.mode == "weights":
            assert adapters is not None
            return [(1.0, self._scaled(call, bound, adapters, weights))]
        parts, base = [], 1 - sum(weights.values())
        against = any(product.against for product in self.sources.products)
        if base != 0 or against or self.regions is not None:
            if adapters is not None:
                adapters.switch(adapters.base)
            parts.append((base, self._evaluate_base(call, bound)))
        for source, weight in weights.items():
            if weight != 0:
                out = self._evaluate_tuned(call, bound, adapters, source)
                parts.append((weight, self._got(call, bound, key_of(source), out)))
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
        return self._got(call, bound, BASE, out)

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
        return call.evaluate(*self.sources.elsewhere(source, call.name, self._calls, bound))

    def _got(self, call: NetworkCall, bound: inspect.BoundArguments, key: Key, out: Any) -> Any:
        """An expert's output with the background prompt's outside the mask; kept for the pool."""
        if self.regions is not None:
            out = self.regions.blended(self._calls, call, bound, out)
        found = self._found.setdefault(key, {})
        for half, rows in enumerate(rows_of(out).split(self.rows)):
            found[self._halves + half] = rows
        return out

    def _evaluate_other(
        self, call: NetworkCall, bound: inspect.BoundArguments, source: Source
    ) -> None:
        """Evaluate a product's expert on the conditional rows; all, until they are known."""
        if is_function(source):
            return  # evaluated where noise levels are known
        given, network = self.sources.elsewhere(source, call.name, self._calls, bound)
        found = self._found.setdefault(key_of(source), {})
        for half in range(call.batch // self.rows):
            place = self._halves + half
            wanted = self.guidance is None or place == self.guidance.cond
            if wanted and place not in found:
                start = half * self.rows
                part = sliced(given, call.batch, start, self.rows, call.axes)
                found[place] = rows_of(call.evaluate(part, network))

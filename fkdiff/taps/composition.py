"""The flat pool of a step: what its network calls found, told apart and composed by the terms."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError, as_predicted
from fkdiff.taps.experts import BASE, Found, TappedPool
from fkdiff.taps.families import predictions
from fkdiff.taps.guidance import Guidance, read_guidance
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import Batched, within_memory
from fkdiff.terms.pool import Key, Source, compose, key_of
from fkdiff.terms.step import Expert

__all__ = ["Composition"]


@dataclass
class Composition:
    """Makes one list of experts and exponents of a pool's predictions.

    Products and annealing change what the scheduler is given, for which the guided pair is split
    and the split verified.

    Arguments:
        pool: Evaluates the experts.
        shards: The particles here.
        holder: Says how many particles a call of a function has, None for all; less where memory
            runs out.
        cost: Counts what is spent.
        asking: Whether a function is being asked, which may call the pipeline's network itself.
    """

    pool: TappedPool
    shards: Shards
    holder: Batched
    cost: Cost
    asking: bool = False

    def experts(
        self, found: Found, scheduler: Any, x: Tensor, mixed: Tensor, pair: tuple[float, float]
    ) -> list[Expert]:
        """The flat pool of a step, with predictions of the scheduler's type and sign.

        Arguments:
            found: What the pool's `take` gave.
            scheduler: The scheduler.
            x: State, shape (N, *).
            mixed: What the pipeline gave to the scheduler, (N, *).
            pair: (alpha, sigma).

        Raises:
            TapError: If the pipeline's guidance isn't linear, or isn't the same as before.
        """
        sources = self.pool.sources
        given = {
            key: [predictions(sources.pipe, [h], x, pair[1])[0] for _, h in sorted(halves.items())]
            for key, halves in found.items()
        }
        like = as_predicted(scheduler, mixed)[:, : x.shape[1]]
        parts = [(w, given[key]) for key, w in self._weights().items() if w != 0 and key in given]
        shown = given.get(BASE, parts[0][1])
        halves = [
            torch.stack([w * outputs[i] for w, outputs in parts]).sum(0) for i in range(len(shown))
        ]
        guided = self._guided(halves, like)

        def evaluate(source: Source, branch: str) -> Tensor:
            if key_of(source) not in given:
                return self._function(source, x, pair)
            outputs = given[key_of(source)]
            if len(outputs) == 1:  # a product's expert, on conditional rows alone
                outputs = outputs * guided.halves
            return guided.branch(outputs, like, branch)

        base = list(guided.experts(shown, like))
        return compose(sources.terms, base, evaluate, self.pool.progress)

    def _weights(self) -> dict[Key, float]:
        """Weights of the base and of the tuned experts in what the pipeline was given."""
        tuned = self.pool.sources.tuned
        if tuned is None or tuned.mode == "weights":
            return {BASE: 1.0}
        weights = tuned.weights(self.pool.progress)
        return {BASE: 1 - sum(weights.values()), **{key_of(s): w for s, w in weights.items()}}

    def _guided(self, halves: list[Tensor], like: Tensor) -> Guidance:
        """How the pipeline guides, as found in the first step and verified in each."""
        kept = self.pool.guidance or read_guidance(halves, like, self.shards)
        self.pool.guidance = kept
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
        """A function's prediction, in micro-batches and counted."""

        def few(size: int) -> Tensor:
            parts = self.shards.batches(size)
            answers = [source(x[part.to(x.device)], *pair) for part in parts]
            return torch.cat(answers)[torch.cat(parts).argsort()]

        spent, self.asking = self.cost.denoiser_evaluations, True
        try:
            with self.cost.time("denoise"):
                answers = within_memory(self.holder, len(x), few)
        finally:
            self.asking = False
        if self.cost.denoiser_evaluations == spent:  # not a call of the pipeline's own network
            self.cost.denoiser_evaluations += len(x)
        return answers.to(x)

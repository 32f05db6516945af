"""Logits of token networks, each distinct state asked for once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from fkdiff.loops import denoiser_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import within_memory
from fkdiff.terms.pool import Key, Source, key_of

__all__ = ["Evaluations", "TokenDenoiser"]

TokenDenoiser: TypeAlias = Callable[[Tensor, float], Tensor]
"""(tokens (n, L), alpha) -> logits of the clean tokens (n, L, V)."""


@dataclass(frozen=True)
class _Answer:
    """What a network said last: its source (kept alive for its key), level, states, logits."""

    source: Source
    alpha: float
    x: Tensor
    logits: Tensor


@dataclass
class Evaluations:
    """Asks networks by name, and remembers their answers to the rows' present states.

    Arguments:
        denoisers: Networks by name.
        micro_batch: Rows per call, None for all.
        cost: Counts rows that are really evaluated.
        timeless: Whether an answer holds at every level, as on masked paths.
    """

    denoisers: Mapping[str, TokenDenoiser]
    micro_batch: int | None
    cost: Cost
    timeless: bool
    _known: dict[tuple[Key, str], _Answer] = field(default_factory=dict, repr=False)

    def __call__(self, source: Source, branch: str, x: Tensor, alpha: float) -> Tensor:
        """Logits (N, L, V) of all rows; only states that aren't known are evaluated."""
        key = key_of(source), branch
        known = self._known.get(key)
        if known is not None and (self.timeless or known.alpha == alpha):
            logits, fresh = known.logits, (known.x != x).any(1)
            if fresh.any():
                # A new tensor: experts of the transition under way hold the old one.
                logits = logits.clone()
                logits[fresh] = self._distinct(source, branch, x[fresh], alpha)
        else:
            logits = self._distinct(source, branch, x, alpha)
        self._known[key] = _Answer(source, alpha, x, logits)
        return logits

    def permute(self, rows: Tensor) -> None:
        """Continue `rows` after a resampling."""
        for key, known in self._known.items():
            at = rows.to(known.x.device)
            self._known[key] = replace(known, x=known.x[at], logits=known.logits[at])

    def _distinct(self, source: Source, branch: str, x: Tensor, alpha: float) -> Tensor:
        states, place = x.unique(dim=0, return_inverse=True)
        with self.cost.time("denoise"):
            parts = within_memory(
                self,
                len(states),
                lambda size: [
                    self.ask(source, branch, part, alpha) for part in states.split(size)
                ],
            )
        self.cost.denoiser_evaluations += len(states)
        return torch.cat(parts)[place]

    def ask(self, source: Source, branch: str, x: Tensor, alpha: float) -> Tensor:
        """Logits of one call, unremembered and uncounted."""
        return self._named(source, branch)(x, alpha)

    def _named(self, source: Source, branch: str) -> TokenDenoiser:
        if hasattr(source, "components"):  # a pipeline, asked for its own model
            return source.denoiser()
        return denoiser_of(self.denoisers, source, branch)

"""The loop over tokens that hands each transition to the engine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.loops import base_of, pool_of
from fkdiff.processes.streams import SlotNoise
from fkdiff.processes.tokens import MaskedPath, TokenStep, UniformPath
from fkdiff.run import Run
from fkdiff.terms.clock import progress_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.discrete_correctors import (
    DiscreteCorrect,
    PoolLaw,
    jump_increment,
    pace,
    pool_law,
)
from fkdiff.terms.pool import Source, exponent_sum
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term
from fkdiff.terms.token_step import token_step
from fkdiff.terms.trial import StandIn
from fkdiff.tokens.evaluations import Evaluations

__all__ = ["Path", "TokenLoop"]

Path: TypeAlias = MaskedPath | UniformPath


@dataclass
class TokenLoop:
    """Owns the tokens; decodes for the rewards.

    Arguments:
        path: The path of noise.
        terms: The terms.
        guidance: g.
        template: Tokens that are given for each particle, -1 where drawn, shape (N, L).
        text: Tokens (n, L) -> n texts, for rewards that read text.
        corrector: The corrector, None for the plain step.
        micro_batch: Rows per network and reward call, None for all at once.
        run: The engine.
        evaluations: Asks the networks.
        masses: A pilot's mean mass at each step, None where nothing was masked.
        seen: The same of this run, filled in as it goes.
    """

    path: Path
    terms: Sequence[Term]
    guidance: float
    template: Tensor
    text: Callable[[Tensor], list[str]] | None
    corrector: DiscreteCorrect | None
    micro_batch: int | None
    run: Run
    evaluations: Evaluations
    masses: list[float | None] = field(default_factory=list)
    seen: list[float | None] = field(default_factory=list)
    cost: Cost = field(init=False, repr=False)
    _laws: dict[int, PoolLaw] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.cost = self.run.cost

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Tokens as a reward reads them."""
        if inputs in ("tokens", "latents"):
            return latents
        if inputs == "text" and self.text is not None:
            return self.text(latents)
        raise ValueError(
            f"rewards must read tokens, or text where sample_tokens is given text=, got "
            f"{inputs!r}; wrap the function: as_reward(fn, inputs='tokens')"
        )

    def stand_in(self, inputs: str) -> StandIn:
        """Returns two rows of the template with one token wherever one is to be drawn."""
        fill = 1 if getattr(self.path, "mask", None) == 0 else 0
        rows = self.template[[0, -1]]
        return StandIn(self.decode(torch.where(rows < 0, fill, rows), inputs), exact=False)

    def __call__(self, bar: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        """Run all transitions."""
        shape = (self.path.uniforms, self.template.shape[1])
        slots = self.run.shards.slots
        noise = SlotNoise(self.run.seed, len(self.run.prompts), slots, shape, torch.float64)
        first = torch.special.ndtr(noise.draw())[:, 0].to(self.template.device)
        x = self.path.initial(self.template, self._vocabulary(), first)
        parents = torch.arange(len(x))
        levels = list(self.path.transitions())
        for index, step in enumerate(bar(levels)):
            uniform = torch.special.ndtr(noise.draw()).to(x.device)
            self._laws = {}
            x_next, d = self._move(x, index, step, uniform)
            rows = self.run.transition(self._step(index, len(levels), x, x_next, step, d, parents))
            parents = torch.arange(len(x)) if rows is None else rows
            x = x_next if rows is None else x_next[rows.to(x.device)]
            if rows is not None:
                self.evaluations.permute(rows)

    def _step(
        self,
        index: int,
        total: int,
        x: Tensor,
        x_next: Tensor,
        step: TokenStep,
        d: Tensor | None,
        parents: Tensor,
    ) -> Step:
        def draw(rows: Tensor, streams: Sequence[torch.Generator], draws: int) -> Tensor:
            u = torch.stack([torch.rand(draws, x.shape[1], generator=g).double() for g in streams])
            following = min(index + 1, total - 1)  # the transition that begins at x_next
            law = self._law(x_next, step.alpha_next, progress_of(following, total))
            tokens, p = x_next[rows.to(x.device)], law.p[rows.to(x.device)]
            return self.path.estimate(
                tokens.expand(draws, -1, -1),
                p.expand(draws, -1, -1, -1),
                u.transpose(0, 1).to(x.device),
            )

        return token_step(
            *(self.run, self.run.prompts, index, total, x, x_next),
            source=self,
            draw=draw,
            parents=parents,
            path=step,
            pool=lambda: tuple(self._pool(x, step.alpha, progress_of(index, total))),
            correction=d,
        )

    def _vocabulary(self) -> int:
        """Size of the vocabulary, asked of the network where random tokens begin the run."""
        if isinstance(self.path, MaskedPath):
            return 0
        probe, name = self.template[:1].clamp(min=0), base_of(self.evaluations.denoisers)
        return self.evaluations.ask(name, "cond", probe, 0.0).shape[-1]

    def _pool(self, x: Tensor, alpha: float, progress: float) -> list[Expert]:
        def evaluate(source: Source, branch: str) -> Tensor:
            return self.path.allowed(self.evaluations(source, branch, x, alpha))

        names = self.evaluations.denoisers
        return pool_of(names, self.terms, self.guidance, evaluate, progress)

    def _law(self, x: Tensor, alpha: float, progress: float) -> PoolLaw:
        key = id(x)
        if key not in self._laws:
            self._laws[key] = pool_law(self._pool(x, alpha, progress))
        return self._laws[key]

    def _move(
        self, x: Tensor, index: int, step: TokenStep, uniform: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        law = self._law(x, step.alpha, progress_of(index, self.path.steps))
        if self.corrector is not None:
            return self._corrected(x, law, index, step, uniform)
        return self.path.move(x, law.p, step, uniform, self.template < 0), None

    def _corrected(
        self, x: Tensor, law: PoolLaw, index: int, step: TokenStep, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Uncover by the corrector's hazards, one token after the other."""
        assert isinstance(self.path, MaskedPath)
        total = exponent_sum(self.terms)
        masked, mass = (x == self.path.mask).cpu(), law.log_mass.exp().cpu()
        self.seen.append(float(mass[masked].mean()) if masked.any() else None)
        at = pace(step, total, self._mass(index))
        free = (self.template < 0).cpu()
        jumps = masked & (uniform[:, 0].cpu() < at.uncovered(mass))
        x_next, drawn = self._filled(x, law, jumps, index, step, uniform[:, 1])
        before = (~masked & free).sum(1)
        return x_next, jump_increment(masked, jumps, mass, drawn, step, total, at, before)

    def _filled(
        self, x: Tensor, law: PoolLaw, jumps: Tensor, index: int, step: TokenStep, uniform: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw the uncovered tokens from left to right, each given those before it."""
        log_mass = torch.zeros(jumps.shape, dtype=torch.float64)
        turn = jumps.cumsum(1)
        for count in range(1, int(turn.max()) + 1):
            place = jumps & (turn == count)
            if count > 1:
                # Rows whose turn is over keep their state, whose evaluation is at hand.
                law = pool_law(self._pool(x, step.alpha, progress_of(index, self.path.steps)))
            here = place.to(x.device)
            drawn = self.path.estimate(x, law.p, uniform)
            x = torch.where(here, drawn, x)
            log_mass = torch.where(place, law.log_mass.cpu(), log_mass)
        return x, log_mass

    def _mass(self, index: int) -> float | None:
        assert self.corrector is not None
        rate = self.corrector.rate
        if rate == "published":
            return None
        if rate == "pilot":
            known = [m for m in self.masses[: index + 1] if m is not None]
            return known[-1] if known else 1.0
        if rate == "live":
            known = [m for m in self.seen if m is not None]
            return known[-1] if known else 1.0
        return float(rate)

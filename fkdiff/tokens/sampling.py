"""Weighted particles of tokens: the loop that hands each transition to the engine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fkdiff.processes.streams import RowNoise, slot_generators, stream
from fkdiff.processes.tokens import MaskedPath, TokenStep, UniformPath
from fkdiff.result import Result
from fkdiff.run import Run
from fkdiff.smc import Resample
from fkdiff.terms.cost import Cost
from fkdiff.terms.discrete_correctors import (
    DiscreteCorrect,
    PoolLaw,
    jump_increment,
    pace,
    pool_law,
)
from fkdiff.terms.pool import PoolTerm, Source, compose, exponent_sum
from fkdiff.terms.reward import Reward
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term
from fkdiff.terms.token_step import token_step
from fkdiff.tokens.consistency import check_tokens, corrector_of_tokens, stated_law
from fkdiff.tokens.evaluations import Evaluations, TokenDenoiser

__all__ = ["TokenDenoiser", "sample_tokens"]

Path: TypeAlias = MaskedPath | UniformPath
_DEFAULT_RESAMPLE = Resample()


def sample_tokens(
    denoisers: Mapping[str, TokenDenoiser] | TokenDenoiser,
    path: Path,
    *terms: Term,
    template: Tensor,
    prompts: Sequence[str] | None = None,
    guidance: float = 1.0,
    text: Callable[[Tensor], list[str]] | None = None,
    particles: int = 4,
    resample: Resample | None = _DEFAULT_RESAMPLE,
    micro_batch: int | None = None,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: int | None = None,
    bar: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Result:
    r"""Draw weighted particles of tokens: one cloud for each row of the template.

    Rewards read "tokens" (n, L), or "text" where `text` is given; on the way they read draws of
    the clean tokens, of which one network evaluation gives any number (`Tilt(draws=...)`). A
    state that many particles share is evaluated once, and so is one that a step left as it was.

    Arguments:
        denoisers: Functions (tokens, alpha) -> logits of the clean tokens, (n, L) int64 -> (n, L,
            V), by name: "cond" (or the first), "uncond" for guidance, and those that terms name.
            A single function is "cond". On a masked path alpha must not matter.
        path: `MaskedPath` or `UniformPath`.
        terms: `Tilt`, `RLGuidance`, `Product`, `Anneal` and, on a masked path, `DiscreteCorrect`
            (or `Correct()`, which stands for it).
        template: Tokens that are given, -1 where they are to be drawn, shape (P, L).
        prompts: P texts for the rewards that read prompts; None for empty ones.
        guidance: g, needs "uncond" where it isn't 1.
        text: Tokens (n, L) -> n texts.
        particles: K, particles for each row, at least 1.
        resample: When and how to resample; None gives importance sampling.
        micro_batch: Rows per network and reward call, None for all at once.
        monitor: Rewards that are reported and never steered on.
        select: "best", "sample" or "all", as in `steer`.
        seed: Seed of every random stream, None for a fresh one.
        bar: Wraps the transitions, for progress bars.

    Returns:
        The record; `latents` are tokens (P, K, L).

    Raises:
        ValueError: If an argument is out of range, or the terms have no common target.

    Example:
        >>> from fkdiff import Tilt, as_reward
        >>> def denoiser(tokens, alpha):
        ...     return torch.zeros(*tokens.shape, 3)
        >>> twos = as_reward(lambda tokens: (tokens == 2).sum(1), inputs="tokens")
        >>> many = Tilt(twos, scale=2.0, draws=4)
        >>> path = MaskedPath(4, mask=3)
        >>> template = torch.full((1, 5), -1)
        >>> result = sample_tokens(denoiser, path, template=template, particles=6, seed=0)
        >>> result.latents.shape, int(result.latents.max()) < 3
        (torch.Size([1, 6, 5]), True)
    """
    named = {"cond": denoisers} if callable(denoisers) else dict(denoisers)
    texts = [""] * len(template) if prompts is None else list(prompts)
    check_tokens(named, path, terms, template, texts, guidance, micro_batch)
    corrector = corrector_of_tokens(terms)
    run = Run.opened(texts, particles, terms, resample, monitor, select, seed)
    loop = _Loop(
        path=path,
        terms=terms,
        guidance=guidance,
        template=template.repeat_interleave(particles, dim=0),
        text=text,
        corrector=corrector,
        micro_batch=micro_batch,
        run=run,
        evaluations=Evaluations(named, micro_batch, run.cost, isinstance(path, MaskedPath)),
    )
    with run.cost.time("total"), torch.no_grad():
        if corrector is not None and corrector.rate == "pilot":
            loop.masses = _pilot(named, path, terms, template, guidance, loop)
        loop(bar)
    settings = {
        "loop": "sample_tokens",
        "path": repr(path),
        "denoisers": list(named),
        "guidance": guidance,
        "particles": particles,
        "terms": [repr(term) for term in terms],
        "resample": repr(resample),
        "micro_batch": micro_batch,
        "monitor": [reward.name for reward in run.monitor],
        "select": run.select,
    }
    result = run.result(stated_law(terms), settings)
    assert result is not None
    return result


def _pilot(
    named: Mapping[str, TokenDenoiser],
    path: Path,
    terms: Sequence[Term],
    template: Tensor,
    guidance: float,
    main: "_Loop",
) -> list[float | None]:
    r"""$\bar Z$ at each step of a small run that is thrown away; what it costs is counted."""
    assert main.corrector is not None
    pool = [t for t in terms if isinstance(t, PoolTerm)]
    corrector = DiscreteCorrect("live")
    particles, distinct = main.corrector.pilot, template.unique(dim=0)
    seed = int(stream(main.run.seed, "pilot").initial_seed())
    texts = [""] * len(distinct)
    run = Run.opened(texts, particles, [*pool, corrector], _DEFAULT_RESAMPLE, (), None, seed)
    run.cost = main.run.cost
    loop = _Loop(
        path=path,
        terms=pool,
        guidance=guidance,
        template=distinct.repeat_interleave(particles, dim=0),
        text=None,
        corrector=corrector,
        micro_batch=main.micro_batch,
        run=run,
        evaluations=Evaluations(named, main.micro_batch, run.cost, True),
    )
    loop(iter)
    return loop.seen


@dataclass
class _Loop:
    """Owns the state; decodes for the rewards."""

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

    def __call__(self, bar: Callable[[Iterable[Any]], Iterable[Any]]) -> None:
        """Run all transitions."""
        prompts, particles = len(self.run.prompts), self.run.particles
        generators = slot_generators(self.run.seed, prompts, particles)
        shape = (self.path.uniforms, self.template.shape[1])
        noise = RowNoise(generators, shape, torch.float64)
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
            law = self._law(x_next, step.alpha_next, (index + 1) / total)
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
            pool=lambda: tuple(self._pool(x, step.alpha, index / total)),
            correction=d,
        )

    def _vocabulary(self) -> int:
        """Size of the vocabulary, asked of the network where random tokens begin the run."""
        if isinstance(self.path, MaskedPath):
            return 0
        probe = self.template[:1].clamp(min=0)
        return self.evaluations.ask(self._base, "cond", probe, 0.0).shape[-1]

    @property
    def _base(self) -> Source:
        names = self.evaluations.denoisers
        return "cond" if "cond" in names else next(iter(names))

    def _pool(self, x: Tensor, alpha: float, progress: float) -> list[Expert]:
        def evaluate(source: Source, branch: str) -> Tensor:
            return self.path.allowed(self.evaluations(source, branch, x, alpha))

        pool = [Expert("cond", self.guidance, evaluate(self._base, "cond"))]
        if self.guidance != 1:
            pool.insert(0, Expert("uncond", 1 - self.guidance, evaluate("uncond", "uncond")))
        return compose(self.terms, pool, evaluate, progress)

    def _law(self, x: Tensor, alpha: float, progress: float) -> PoolLaw:
        key = id(x)
        if key not in self._laws:
            self._laws[key] = pool_law(self._pool(x, alpha, progress))
        return self._laws[key]

    def _move(
        self, x: Tensor, index: int, step: TokenStep, uniform: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        law = self._law(x, step.alpha, index / self.path.steps)
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
                law = pool_law(self._pool(x, step.alpha, index / self.path.steps))
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

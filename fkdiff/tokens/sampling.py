"""`sample_tokens`: weighted particles of tokens from denoisers that are given as functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.loops import closed, opened, rows_at_once
from fkdiff.processes.streams import Seed, stream
from fkdiff.processes.tokens import MaskedPath
from fkdiff.result import Result
from fkdiff.smc import Resample
from fkdiff.terms.discrete_correctors import DiscreteCorrect
from fkdiff.terms.pool import PoolTerm
from fkdiff.terms.reward import Reward
from fkdiff.terms.term import Term
from fkdiff.tokens.consistency import PROVIDED, check_tokens, corrector_of_tokens, stated_law
from fkdiff.tokens.evaluations import Evaluations, TokenDenoiser
from fkdiff.tokens.loop import Path, TokenLoop

__all__ = ["TokenDenoiser", "sample_tokens"]


def sample_tokens(
    denoisers: Mapping[str, TokenDenoiser] | TokenDenoiser,
    path: Path,
    *terms: Term,
    template: Tensor,
    prompts: Sequence[str] | None = None,
    guidance: float = 1.0,
    text: Callable[[Tensor], list[str]] | None = None,
    particles: int = 4,
    resample: Resample | None = Resample(),
    micro_batch: int | None = None,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: Seed | None = None,
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
        seed: Seed of every random stream, or one for each row of the template; None for a
            fresh one.
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
    run = opened(
        *(texts, particles, terms, resample, monitor, select, seed),
        provided=PROVIDED | ({"uncond"} if guidance != 1 else set()),
        where="sample_tokens",
    )
    loop = TokenLoop(
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
        run.try_rewards(loop.stand_in)
        if corrector is not None and corrector.rate == "pilot":
            loop.masses = _pilot(named, path, terms, template, guidance, loop)
        loop(bar)
    settings = {
        "loop": "sample_tokens",
        "path": repr(path),
        "denoisers": list(named),
        "guidance": guidance,
        "text": text is not None,
        **rows_at_once(micro_batch, loop, loop.evaluations),
    }
    return closed(run, stated_law(terms), settings)


def _pilot(
    named: Mapping[str, TokenDenoiser],
    path: Path,
    terms: Sequence[Term],
    template: Tensor,
    guidance: float,
    main: TokenLoop,
) -> list[float | None]:
    r"""$\bar Z$ at each step of a small run that is thrown away; what it costs is counted."""
    assert main.corrector is not None
    pool = [t for t in terms if isinstance(t, PoolTerm)]
    corrector = DiscreteCorrect("live")
    particles, distinct = main.corrector.pilot, template.unique(dim=0)
    seed = int(stream(main.run.seed, "pilot").initial_seed())
    texts = [""] * len(distinct)
    run = opened(
        *(texts, particles, [*pool, corrector], Resample(), (), None, seed),
        provided=PROVIDED,
        where="sample_tokens",
    )
    run.cost = main.run.cost
    loop = TokenLoop(
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

"""Whether the terms of a run on tokens fit together, and the law that they state."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.loops import check_denoisers
from fkdiff.processes.tokens import MaskedPath, UniformPath
from fkdiff.terms.consistency import check_pool, stated_target
from fkdiff.terms.correctors import Correct
from fkdiff.terms.discrete_correctors import DiscreteCorrect
from fkdiff.terms.pool import PoolTerm, pool_terms
from fkdiff.terms.term import Term, law_of, weighs

__all__ = ["PROVIDED", "check_tokens", "corrector_of_tokens", "stated_law"]

PROVIDED = frozenset({"x0", "decode", "scores", "tokens"})
"""What terms of a run on tokens may need; with guidance also "uncond"."""


def corrector_of_tokens(terms: Sequence[Term]) -> DiscreteCorrect | None:
    """The corrector of a run on tokens, for which `Correct()` stands too; None without one."""
    for term in terms:
        if isinstance(term, DiscreteCorrect):
            return term
        if isinstance(term, Correct):
            return DiscreteCorrect()
    return None


def check_tokens(
    named: Mapping[str, Any],
    path: MaskedPath | UniformPath,
    terms: Sequence[Term],
    template: Tensor,
    texts: Sequence[str],
    guidance: float,
    micro_batch: int | None,
) -> None:
    """Refuse what a run on tokens can't do.

    Arguments:
        named: Denoisers by name.
        path: The path of noise.
        terms: The terms.
        template: Tokens that are given, -1 where they are to be drawn, shape (P, L).
        texts: Prompts, one a row.
        guidance: g.
        micro_batch: Rows per call, None for all.

    Raises:
        ValueError: If an argument is out of range, or the terms have no common target.
    """
    check_denoisers(named, guidance, micro_batch)
    if template.ndim != 2 or template.dtype != torch.int64 or not template.numel():
        raise ValueError(
            f"template must be int64 tokens (P, L) with P and L at least 1, got "
            f"{template.dtype} {tuple(template.shape)}; -1 marks what is to be drawn"
        )
    if not (template < 0).any(1).all():
        raise ValueError("template must hold -1 in each row, got a row with nothing to draw")
    if len(texts) != len(template):
        raise ValueError(f"prompts must be {len(template)}, one a row, got {len(texts)}")
    _check_terms(path, terms)


def _check_terms(path: MaskedPath | UniformPath, terms: Sequence[Term]) -> None:
    check_pool(terms, None)
    correctors = [t for t in terms if isinstance(t, Correct | DiscreteCorrect)]
    if not correctors:
        return
    if len(correctors) > 1:
        raise ValueError(f"terms must hold one corrector, got {len(correctors)}")
    if isinstance(correctors[0], Correct) and correctors[0] != Correct():
        raise ValueError(
            f"Correct's settings belong to Gaussian paths, got {correctors[0]!r}; "
            f"take DiscreteCorrect(rate=...)"
        )
    if not isinstance(path, MaskedPath) or path.order != "random" or path.remask:
        raise ValueError(
            f"a corrector needs a masked path with order 'random' and remask 0, got {path!r}"
        )
    for term in terms:
        if isinstance(term, PoolTerm) and term.scheduled:
            raise ValueError(f"exponents must be constant in time with a corrector, got {term!r}")


def stated_law(terms: Sequence[Term]) -> str:
    """What law the weighted cloud of tokens stands for, in words.

    >>> stated_law([])
    'law of the chain that is run'
    """
    corrector = corrector_of_tokens(terms)
    if corrector is None:
        return stated_target(terms)
    pool = [t.target for t in pool_terms(terms)]
    weighing = [term for term in terms if weighs(term)]
    factors = [law_of(term).removeprefix("law of the chain ") for term in weighing]
    return "; ".join([f"{corrector.target} (pool: {', '.join(['CFG', *pool])})", *factors])

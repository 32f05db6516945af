r"""The pool of experts, and the fixed order in which terms edit it.

Experts multiply: the pool stands for $\prod_j q_j^{b_j}$. Pool terms apply as CFG (which the
pipeline brings), `RLGuidance`, `Product`, `Anneal`, whatever the order of the arguments.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from fkdiff.terms.step import Expert
from fkdiff.terms.term import Weightless

__all__ = [
    "Evaluate",
    "Key",
    "PoolTerm",
    "Source",
    "compose",
    "exponent_sum",
    "key_of",
    "label",
    "labels",
    "pool_terms",
    "source_code",
]

Source: TypeAlias = Any
"""Where another prediction comes from: a name, a prompt, a network, a pipeline, a callable."""

Key: TypeAlias = int | str
"""What stands for a source in tables."""

Evaluate: TypeAlias = Callable[[Source, str], Tensor]
"""Prediction of a source at the current state, for a branch of the guidance ("cond", ...)."""


class PoolTerm(Weightless):
    """Base of the terms that edit the pool.

    Arguments:
        stage: Place in the fixed order; CFG is 0.
    """

    stage: ClassVar[int]

    @property
    def needs(self) -> frozenset[str]:
        """The network's predictions."""
        return frozenset({"scores"})

    @property
    def scheduled(self) -> bool:
        """Whether an exponent changes in time, which no corrector can follow."""
        return False

    def experts(
        self, pool: list[Expert], evaluate: Evaluate, progress: float = 1.0
    ) -> list[Expert]:
        """The pool after this term.

        Arguments:
            pool: The pool before it.
            evaluate: Asks for other predictions.
            progress: Of the transition, in (0, 1].
        """
        raise NotImplementedError

    def exponent_sum(self, total: float) -> float:
        """Sum of the exponents after this term, from the one before it."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """What the term makes of the law that the pool stands for, as a factor or a power."""
        raise NotImplementedError


def pool_terms(terms: Iterable[object]) -> list[PoolTerm]:
    """The terms that edit the pool, in the fixed order; ties by their text."""
    found = [term for term in terms if isinstance(term, PoolTerm)]
    return sorted(found, key=lambda term: (term.stage, term.target))


def compose(
    terms: Iterable[object], pool: list[Expert], evaluate: Evaluate, progress: float = 1.0
) -> list[Expert]:
    """The flat pool after all the terms; experts with exponent 0 are left out.

    Arguments:
        terms: Terms in any order; those that don't edit the pool are passed over.
        pool: What CFG made.
        evaluate: Asks for other predictions.
        progress: Of the transition, in (0, 1].
    """
    for term in pool_terms(terms):
        pool = term.experts(pool, evaluate, progress)
    return [expert for expert in pool if expert.b != 0]


def exponent_sum(terms: Iterable[object]) -> float:
    r"""$B = \sum_j b_j$ of the pool; CFG has 1.

    Raises:
        ValueError: If it isn't positive: the product then has no starting law.
    """
    total = 1.0
    for term in pool_terms(terms):
        total = term.exponent_sum(total)
    if not total > 0:
        raise ValueError(
            f"exponents must have a positive sum, got {total:g}; lower the negative ones "
            f"(Product b), or divide by an expert that is there with Product(against=...)"
        )
    return total


def label(source: Source, index: int = 0) -> str:
    """A short name for a source, for experts and reports.

    >>> label("emoji-rl"), label(len), label(3, index=1)
    ('emoji-rl', 'len', 'int1')
    """
    if isinstance(source, str):
        return source
    if _path(source):
        return PurePath(_path(source)).name
    name = getattr(source, "__name__", None)
    return name if isinstance(name, str) else f"{type(source).__name__}{index or ''}"


def labels(sources: Iterable[Source], taken: Iterable[str] = ()) -> list[str]:
    """Labels of sources, all different: those that would repeat are numbered.

    Arguments:
        sources: The sources.
        taken: Names that they may not have.

    >>> labels([len, len, "len"], taken=["base"])
    ['len', 'len (2)', 'len (3)']
    """
    named = list(taken)
    for index, source in enumerate(sources):
        name, count = (first := label(source, index)), 1
        while name in named:
            count += 1
            name = f"{first} ({count})"
        named.append(name)
    return named[len(list(taken)) :]


def key_of(source: Source) -> Key:
    """A key for tables of sources: a prompt or an adapter by its text, an object by itself.

    An object must be kept alive as long as its key, whose number another one may get after it.
    """
    return f"/{source}" if isinstance(source, str) else id(source)


def source_code(source: Source) -> str:
    """A source as Python: text quoted, a pipeline by how it is loaded, the rest by its label.

    >>> source_code("a dog")
    "'a dog'"
    """
    if _path(source):
        return f"DiffusionPipeline.from_pretrained({_path(source)!r})"
    return repr(source) if isinstance(source, str) else label(source)


def _path(source: Source) -> str:
    """Where a pipeline was loaded from; empty for what isn't one."""
    is_pipeline = hasattr(source, "components")
    return str(getattr(source, "name_or_path", None) or "") if is_pipeline else ""

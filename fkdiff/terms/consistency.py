"""Whether a run's terms fit together and have what they need, and the one law that they state."""

from collections.abc import Iterable, Sequence
from typing import Any

from fkdiff.terms.correctors import Correct
from fkdiff.terms.pool import PoolTerm, exponent_sum, pool_terms
from fkdiff.terms.regions import Regions, regions_of
from fkdiff.terms.reward import Reward
from fkdiff.terms.rl_guidance import RLGuidance
from fkdiff.terms.step import Step
from fkdiff.terms.term import NEEDS, Term, law_of, weighs

__all__ = [
    "as_terms",
    "check_first",
    "check_names",
    "check_needs",
    "check_pool",
    "corrector_of",
    "rewards_of",
    "stated_target",
    "tilts",
]

_MEMBERS = ("needs", "target", "steers", "start", "log_twist")


def as_terms(terms: Iterable[Any]) -> tuple[Term, ...]:
    """The terms of a run, each checked to be one.

    Raises:
        TypeError: If one isn't; says what it lacks.

    Example:
        >>> as_terms([len])
        Traceback (most recent call last):
        TypeError: terms must be terms such as Tilt(reward), got len; wrap a reward: Tilt(...)
    """
    for term in (terms := tuple(terms)):
        kind = term.__name__ if isinstance(term, type) else type(term).__name__
        if isinstance(term, type):
            raise TypeError(f"terms must be instances, got the class {kind}; write {kind}(...)")
        lacks = [name for name in _MEMBERS if not hasattr(term, name)]
        if lacks and callable(term):
            name = getattr(term, "__name__", kind)
            raise TypeError(
                f"terms must be terms such as Tilt(reward), got {name}; wrap a reward: Tilt(...)"
            )
        if lacks:
            raise TypeError(
                f"terms must be terms such as Tilt(reward), got {kind}, which lacks "
                f"{', '.join(lacks)}; inherit from fkdiff.terms.Term, which has defaults"
            )
        if hasattr(term, "experts") and not isinstance(term, PoolTerm):
            raise TypeError(
                f"{kind} edits the pool of experts and must inherit from fkdiff.terms.pool."
                f"PoolTerm; without that its experts would be ignored"
            )
    return terms


def rewards_of(terms: Iterable[Term]) -> list[Reward]:
    """The rewards that terms steer by."""
    return [term.reward for term in terms if hasattr(term, "reward")]  # pyright: ignore


def check_names(rewards: Iterable[Reward]) -> None:
    """Refuse two rewards of one name, under which results list their values.

    Raises:
        ValueError: If there are.
    """
    named: dict[str, Reward] = {}
    for reward in rewards:
        if named.setdefault(reward.name, reward) is not reward:
            raise ValueError(
                f"rewards must have different names, got {reward.name!r} twice; "
                f"name one: as_reward(fn, name=...)"
            )


def check_needs(terms: Sequence[Term], provided: Iterable[str], where: str) -> None:
    """Refuse terms that need what a run doesn't provide.

    Arguments:
        terms: The terms.
        provided: What the run provides, of `NEEDS`.
        where: What runs, in words.

    Raises:
        ValueError: If there is one, or one that needs what nothing provides.
    """
    given = set(provided)
    for term in terms:
        name = type(term).__name__
        for need in sorted(term.needs):
            if need not in NEEDS:
                raise ValueError(
                    f"needs must be of {', '.join(NEEDS)}, got {need!r} from {name}; "
                    f"leave it out of {name}.needs"
                )
            if need not in given:
                raise ValueError(
                    f"{name} needs {NEEDS[need]}, which {where} doesn't have; leave out {name}"
                )


def check_first(terms: Sequence[Term], step: Step) -> None:
    """Refuse what a run's first transition shows to be missing, before anything is weighed.

    Raises:
        ValueError: If a term needs the step's density or an unconditional prediction, and there
            is none.
    """
    for term in terms:
        name = type(term).__name__
        if "kernel" in term.needs and step.kernel is None:
            raise ValueError(
                f"{name} needs the density of the step, which this scheduler's own step doesn't "
                f"have; set stochastic=True"
            )
        if "uncond" in term.needs and all(e.name != "uncond" for e in step.experts):
            raise ValueError(
                f"{name} needs an unconditional prediction; call with guidance that isn't 1"
            )


def corrector_of(terms: Sequence[Term]) -> Correct | None:
    """The corrector among the terms."""
    return next((term for term in terms if isinstance(term, Correct)), None)


def tilts(terms: Sequence[Term]) -> bool:
    """Whether any term ranks particles by a log-twist of its own."""
    return any(weighs(term) for term in terms)


def check_pool(terms: Sequence[Term], stochastic: bool | None) -> None:
    """Refuse terms that have no common target.

    Raises:
        ValueError: With the reason and the remedy.
    """
    remedies = {
        Correct: "one serves all terms",
        RLGuidance: "give it a mapping",
        Regions: "paste cut-outs together instead",
    }
    for kind, remedy in remedies.items():
        found = [term for term in terms if isinstance(term, kind)]
        if len(found) > 1:
            raise ValueError(f"terms must hold one {kind.__name__}, got {len(found)}; {remedy}")
    exponent_sum(terms)
    if corrector_of(terms) is None:
        return
    if regions_of(terms) is not None:
        raise ValueError(
            "Correct() can't follow two prompts under a mask, whose mixture is the score of no "
            "law; leave out Correct(), or the mask"
        )
    if stochastic is False:
        raise ValueError(
            "stochastic must not be False with Correct(), whose moves are stochastic; "
            "leave it out, or leave out Correct()"
        )
    for term in pool_terms(terms):
        if term.scheduled:
            raise ValueError(
                f"exponents must be constant in time with Correct(), got {term!r}: a schedule "
                f"adds dw/dt log(q_tuned / q_base) to the weights, which no network tells; "
                f"give a constant w without interval, or leave out Correct()"
            )


def stated_target(terms: Sequence[Term]) -> str:
    """What law the weighted cloud stands for, in words."""
    corrector, pool = corrector_of(terms), pool_terms(terms)
    rest = [law for term in terms for law in _stated(term)]
    edits = "CFG, " + ", ".join(term.target for term in pool) if pool else "CFG"
    if corrector is not None:
        factors = [target.removeprefix("law of the chain ") for target in rest]
        return "; ".join([f"{corrector.target} (pool: {edits})", *factors])
    regions = regions_of(terms)
    stated = [] if regions is None else [regions.target]
    if pool:
        stated.append(f"heuristic: uncorrected pool ({edits})")
    return "; ".join([*stated, *rest]) or "law of the chain that is run"


def _stated(term: Term) -> list[str]:
    """What a term adds to the law of the chain; pool, corrector and mask are stated apart."""
    if isinstance(term, PoolTerm | Correct | Regions):
        return [f"times exp(log-twist of {type(term).__name__})"] if weighs(term) else []
    says_so = getattr(type(term), "target", None) is not Term.target
    return [law_of(term)] if weighs(term) or says_so else []

"""Whether a run's terms fit together, and the one law that they state."""

from collections.abc import Sequence

from fkdiff.terms.correctors import Correct
from fkdiff.terms.pool import exponent_sum, pool_terms
from fkdiff.terms.regions import Regions, regions_of
from fkdiff.terms.rl_guidance import RLGuidance
from fkdiff.terms.term import Term, Weightless

__all__ = ["check_pool", "corrector_of", "stated_target", "tilts"]


def corrector_of(terms: Sequence[Term]) -> Correct | None:
    """The corrector among the terms."""
    return next((term for term in terms if isinstance(term, Correct)), None)


def tilts(terms: Sequence[Term]) -> bool:
    """Whether any term ranks particles by a log-twist of its own."""
    return any(not isinstance(term, Weightless) for term in terms)


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
    rest = [term.target for term in terms if not isinstance(term, Weightless)]
    edits = "CFG, " + ", ".join(term.target for term in pool) if pool else "CFG"
    if corrector is not None:
        factors = [target.removeprefix("law of the chain ") for target in rest]
        return "; ".join([f"{corrector.target} (pool: {edits})", *factors])
    regions = regions_of(terms)
    stated = [] if regions is None else [regions.target]
    if pool:
        stated.append(f"heuristic: uncorrected pool ({edits})")
    return "; ".join([*stated, *rest]) or "law of the chain that is run"

"""How far the last step has to bring the law back where the potentials on the way were greedy."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fkdiff.smc.weights import ess
from fkdiff.terms.term import Term

__all__ = ["RepairWarning", "is_heavy", "repair_ess", "warn_of_repair"]

GREEDY = ("max", "sum", "current")


class RepairWarning(UserWarning):
    """The last step repairs so much that few particles dominate log Z and weighted means."""


def repair_ess(
    terms: Sequence[Term], before: Sequence[Tensor], after: Sequence[Tensor]
) -> Tensor | None:
    """Effective sample size of the weights of the last step's repair alone, shape (P,), float64.

    Greedy potentials ("max", "sum", "current") select by more than the target's tilt; the last
    step takes it back by a weight. None where no term has such a potential.

    Arguments:
        terms: The terms of the run.
        before: Their log-twists before the last step, (P, K) each.
        after: After it.

    Example:
        >>> from fkdiff import Tilt
        >>> zeros, last = torch.zeros(1, 4), torch.tensor([[0.0, -9.0, -9.0, -9.0]])
        >>> [round(float(v), 2) for v in repair_ess([Tilt(len, potential="max")], [zeros], [last])]
        [1.0]
        >>> repair_ess([Tilt(len)], [zeros], [last])
    """
    greedy = [getattr(term, "potential", None) in GREEDY and term.steers for term in terms]
    if not any(greedy):
        return None
    moved = [
        torch.where(b == -torch.inf, 0.0, a - b)
        for b, a, chosen in zip(before, after, greedy, strict=True)
        if chosen
    ]
    return ess(torch.stack(moved).sum(0).double())


def is_heavy(found: Tensor | None, particles: int, prompt: int | None = None) -> bool:
    """Whether a repair leaves less than a tenth of the particles, for one prompt or for any.

    Arguments:
        found: What `repair_ess` returned, shape (P,) or None.
        particles: K.
        prompt: Which prompt, None for any.

    Example:
        >>> found = torch.tensor([8.0, 1.0])
        >>> is_heavy(found, 16), is_heavy(found, 16, prompt=0), is_heavy(None, 16)
        (True, False, False)
    """
    if found is None or particles == 1:
        return False
    least = float(found.min() if prompt is None else found[prompt])
    # A single particle has all the weight at 1, which is no tenth of a few.
    return least < max(particles / 10, 1.2)


def warn_of_repair(found: Tensor | None, particles: int) -> None:
    """Warn where the least effective sample size of a repair is below a tenth of the particles.

    Arguments:
        found: What `repair_ess` returned, shape (P,) or None.
        particles: K.
    """
    if is_heavy(found, particles):
        assert found is not None
        least = float(found.min())
        warnings.warn(
            f"the last step's repair has an effective sample size of {least:.1f} of {particles} "
            f'particles: log Z and weighted means can be off; use potential="difference"',
            RepairWarning,
            stacklevel=2,
        )

"""How a pipeline mixes its network's outputs, read off them: the guided pair as two experts."""

import math
from dataclasses import dataclass

from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.coefficients import TapError
from fkdiff.terms.step import Expert

__all__ = ["Guidance", "read_guidance", "split_guidance"]


@dataclass(frozen=True)
class Guidance:
    r"""How a pipeline mixes its network's outputs: sign * (uncond + g (cond - uncond)).

    Arguments:
        halves: Predictions a particle, 1 or 2.
        cond: Which of them is the conditional one.
        g: Guidance scale; 1 where there is one prediction.
        sign: -1 where the pipeline turns the sign of what the network predicts.
    """

    halves: int
    cond: int
    g: float
    sign: int

    def branch(self, outputs: list[Tensor], like: Tensor, branch: str) -> Tensor:
        """The "cond" or "uncond" prediction among a network's outputs, as the scheduler's."""
        found = _halves_of(outputs, like)
        return self.sign * found[self.cond if branch == "cond" else 1 - self.cond]

    def experts(self, outputs: list[Tensor], like: Tensor) -> tuple[Expert, ...]:
        """The outputs with their exponents."""
        cond = Expert("cond", self.g, self.branch(outputs, like, "cond"))
        if self.halves == 1:
            return (cond,)
        return Expert("uncond", 1 - self.g, self.branch(outputs, like, "uncond")), cond


def _halves_of(outputs: list[Tensor], like: Tensor) -> list[Tensor]:
    """Predictions of a step, each shaped like `like` (rows, *), learned variances dropped."""
    return [
        half[:, : like.shape[1]].reshape(like.shape)
        for out in outputs
        for half in out.split(len(like))
    ]


def read_guidance(outputs: list[Tensor], mixed: Tensor, shards: Shards | None = None) -> Guidance:
    r"""How outputs were mixed, found by a fit.

    Solves $\pm m = h_2 + a (h_1 - h_2)$ by least squares, as some pipelines turn the sign of what
    the network predicts; the half with the coefficient above 1 is the conditional one (the second
    half where guidance is between 0 and 1, as most pipelines order it).

    Arguments:
        outputs: What the networks returned during the step, (rows, *) or (2 * rows, *) each.
        mixed: What the pipeline gave to the scheduler, shape (rows, *).
        shards: Whose rows these are: the fit is over all processes.

    Raises:
        TapError: If the mixture isn't linear in two halves (guidance rescale, APG, PAG, ...).
    """
    halves = _halves_of(outputs, mixed)
    if len(halves) not in (1, 2):
        raise TapError(f"expected one or two predictions a particle, got {len(halves)}")
    first, second = halves[0], halves[-1]
    fits = [(*_fit(first, second, sign * mixed, shards), sign) for sign in (1, -1)]
    residual, a, sign = min(fits, key=lambda fit: fit[0])
    if residual > 1e-3:
        raise TapError(
            f"the guided prediction isn't a linear mixture of the network's outputs (residual "
            f"{residual:.1e}); turn off guidance_rescale, PAG or other modified guidance"
        )
    if a is None:
        return Guidance(1, 0, 1.0, sign)
    return Guidance(2, 0, a, sign) if a > 1 else Guidance(2, 1, 1 - a, sign)


def split_guidance(
    outputs: list[Tensor], mixed: Tensor, rows: int, shards: Shards | None = None
) -> tuple[Expert, ...]:
    """Conditional and unconditional experts behind a guided output; see `read_guidance`."""
    return read_guidance(outputs, mixed[:rows], shards).experts(outputs, mixed[:rows])


def _fit(
    first: Tensor, second: Tensor, mixed: Tensor, shards: Shards | None
) -> tuple[float, float | None]:
    """Relative residual of m = second + a (first - second), and a; None where the two agree."""

    def total(values: Tensor) -> float:
        # Row by row first, and then over the rows of the run: the same bits wherever they are.
        rows = values.flatten(1).sum(1).cpu()
        return float((rows if shards is None else shards.gather(rows)).sum())

    d, m = (first - second).double(), (mixed - second).double()
    size = total(d.square())
    a = total(d * m) / size if size else None
    left = m if a is None else m - a * d
    return math.sqrt(total(left.square()) / max(total(mixed.double().square()), 1e-60)), a

"""A transition of particles of tokens, the same for every loop that draws them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fkdiff.processes.streams import Seed, row_streams
from fkdiff.processes.tokens import TokenStep
from fkdiff.terms.draws import Draw
from fkdiff.terms.step import Expert, Source, Step

__all__ = ["Cloud", "token_step"]


class Cloud(Protocol):
    """What a transition tells of whoever weighs and resamples."""

    @property
    def log_w(self) -> Tensor:
        """Carried log-weights, shape (P, K), float64."""
        ...

    @property
    def seed(self) -> Seed:
        """Seed of every stream, one for all prompts or one for each."""
        ...

    def may_resample(self, index: int, total: int) -> bool:
        """Whether resampling could fire at this transition."""
        ...


def token_step(
    cloud: Cloud,
    texts: Sequence[str],
    index: int,
    total: int,
    x: Tensor,
    x_next: Tensor,
    *,
    source: Source,
    draw: Draw,
    parents: Tensor | None,
    path: TokenStep | None = None,
    pool: Callable[[], tuple[Expert, ...]] = tuple,
    correction: Tensor | None = None,
) -> Step:
    """The transition x -> x_next of N = P K rows of tokens; its estimate is one draw.

    Arguments:
        cloud: Tells log-weights and seed.
        texts: P prompts.
        index: Transition, counted from 0.
        total: Number of transitions of the run.
        x: Tokens before the transition, shape (N, L).
        x_next: Tokens after it, same shape.
        source: Decodes and counts.
        draw: Draws clean tokens.
        parents: As in `Step`; None where no row moved.
        path: Coefficients before and after; None where the scheduler doesn't tell.
        pool: Computes the experts, called at most once.
        correction: What a corrector adds to the log-weights, shape (N,), float64.
    """
    prompts, particles = cloud.log_w.shape
    rows = torch.arange(len(x_next))

    def estimate() -> Tensor:
        streams = row_streams(cloud.seed, particles, range(len(rows)), "estimate", index)
        return draw(rows, streams, 1)[0]

    return Step(
        index=index,
        total=total,
        x=x,
        x_next=x_next,
        path=path,
        prompts=prompts,
        particles=particles,
        context={"prompts": [text for text in texts for _ in range(particles)]},
        log_w=cloud.log_w,
        may_resample=cloud.may_resample(index, total),
        parents=rows if parents is None else parents,
        source=source,
        estimate=estimate,
        pool=pool,
        correction=None if correction is None else correction.reshape(prompts, particles),
        seed=cloud.seed,
        draw=draw,
    )

"""What a pool does at each scheduler step: edits the prediction, or moves by the corrector."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes import Gaussian
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.compatible import check_correctable, check_guided
from fkdiff.taps.composition import Composition
from fkdiff.taps.experts import TappedPool
from fkdiff.taps.pool_step import PoolStep
from fkdiff.taps.scheduler import Call, path_before
from fkdiff.terms.consistency import corrector_of
from fkdiff.terms.correctors import Correct, Move, warn_few_steps
from fkdiff.terms.pool import exponent_sum, pool_terms
from fkdiff.terms.rl_guidance import RLGuidance

__all__ = ["PoolMoves", "opened_moves"]


@contextmanager
def opened_moves(composition: Composition) -> Iterator["PoolMoves | None"]:
    """The pool's part in a run while the block lasts, None where no term concerns it.

    Raises:
        TapError: If the pool can't be had on this pipeline, or can't be corrected.
    """
    pool, sources = composition.pool, composition.pool.sources
    corrector = corrector_of(sources.terms)
    if corrector is None and not pool_terms(sources.terms) and pool.regions is None:
        yield None
        return
    if corrector is not None:
        check_correctable(sources.pipe, sources.expanded.arguments)
        pool.shrink = exponent_sum(sources.terms) ** -0.5
    with pool.opened():
        yield PoolMoves(composition, corrector)


@dataclass
class PoolMoves:
    """Turns a pool's predictions into what the run does.

    Arguments:
        composition: Makes the flat pool of each step.
        corrector: The corrector among the terms.
        flat: The flat pool of the step under way; None where the network's output is all that is
            mixed.
    """

    composition: Composition
    corrector: Correct | None
    flat: PoolStep | None = None

    @property
    def pool(self) -> TappedPool:
        """Evaluates the experts."""
        return self.composition.pool

    @property
    def edits(self) -> bool:
        """Whether the scheduler must be given another prediction than the pipeline's."""
        terms = pool_terms(self.pool.sources.terms)
        return any(not isinstance(term, RLGuidance) for term in terms)

    def before(
        self, scheduler: Any, arguments: dict[str, Any], pair: tuple[float, float] | None
    ) -> None:
        """Find the flat pool; put its sum in the place of the prediction, for the native step.

        Raises:
            TapError: If the scheduler tells no noise level or the split can't be verified.
        """
        found, rows = self.pool.take(), self.pool.rows
        if self.corrector is None and not self.edits:
            return
        if pair is None:
            raise TapError(f"{type(scheduler).__name__} tells no noise level; set another")
        if arguments.get("per_token_timesteps") is not None:
            raise TapError(
                f"{type(self.pool.sources.pipe).__name__} steps each token from a time of its "
                f"own, which has no common law; leave out Correct(), Product and Anneal"
            )
        if self.pool.shrink != 1:
            arguments["sample"] = self.pool.shrink * arguments["sample"]
            self.pool.shrink = 1.0
        x, mixed = arguments["sample"][:rows], arguments["model_output"]
        experts = self.composition.experts(found, scheduler, x, mixed[:rows], pair)
        index = getattr(scheduler, "step_index", None)
        self.flat = PoolStep(scheduler, index, pair, x, experts)
        if self.corrector is None:
            copies = torch.cat([self.flat.edited()] * (len(mixed) // rows))
            variances = mixed[:, x.shape[1] :]
            arguments["model_output"] = torch.cat([copies, variances], 1)

    def corrected(self, call: Call, path: Gaussian) -> Move:
        """The corrector's move in the place of the scheduler's step."""
        assert self.corrector is not None and self.flat is not None
        noises = self.flat.noises()
        x = self.flat.x.to(noises[0][1])
        move = self.corrector.move(x, path, noises, path_before(call))
        constant = _start_constant(call, self.flat) if call.position == 0 else 0.0
        return replace(move, d=move.d + constant)

    def check_start(self, call: Call, masked: bool) -> None:
        """Refuse to correct what has no common law, as far as the first step tells.

        Arguments:
            call: The run's first step.
            masked: Whether the pipeline keeps a part of an image.

        Raises:
            TapError: With the rule and the remedy.
        """
        pipe, terms = self.pool.sources.pipe, self.pool.sources.terms
        if masked or call.calls < len(call.scheduler.timesteps):
            raise TapError(
                f"Correct() must start in noise and move all of the state, but "
                f"{type(pipe).__name__} starts from an image or keeps a part of one; "
                f"leave out Correct()"
            )
        check_guided(pipe, self.pool.guidance, bool(pool_terms(terms)))
        warn_few_steps(call.transitions)

    def estimate(self) -> Tensor | None:
        """Denoised estimate of a corrected pool or of a power; None where the step's own is it."""
        flat = self.flat
        if flat is None or (self.corrector is None and abs(flat.total - 1) < 1e-6):
            return None
        return flat.x0()


def _start_constant(call: Call, flat: PoolStep) -> float:
    r"""What log Z gains as pipelines start from $N(0, s^2)$, s a little above $\sigma$."""
    start = float(getattr(call.scheduler, "init_noise_sigma", flat.pair[1]))
    return flat.x[0].numel() * (1 - flat.total) * math.log(start / flat.pair[1])

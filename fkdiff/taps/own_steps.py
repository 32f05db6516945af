"""Steps of the project's own in the place of the scheduler's: stochastic ones, or corrected."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fkdiff.processes import Kernel, sde_step
from fkdiff.taps.coefficients import TapError, separates_copies
from fkdiff.taps.engine import Engine
from fkdiff.taps.pool_moves import PoolMoves
from fkdiff.taps.scheduler import Call

__all__ = ["OwnSteps"]

_logger = logging.getLogger(__name__)


@dataclass
class OwnSteps:
    """Replaces the scheduler's steps where copies of a particle must get different futures.

    A corrector's moves replace them all.

    Arguments:
        generators: One CPU generator a row here.
        engine: Says where resampling could fire.
        stochastic: None replaces where resampling can fire, True always, False never (then a
            step that can't separate copies is refused).
        resamples: Whether resampling can fire at all.
        replaced: What was replaced by what; None for nothing.
    """

    generators: Sequence[torch.Generator]
    engine: Engine
    stochastic: bool | None
    resamples: bool
    replaced: str | None = None
    _wanted: bool | None = None
    _correction: Tensor | None = None

    def kernel(self, call: Call, moves: PoolMoves | None, masked: bool) -> Kernel | None:
        """Let the scheduler's call return the own step; its law, or None where it stays.

        Arguments:
            call: The call, whose output is edited.
            moves: The pool's part in the run.
            masked: Whether the pipeline keeps a part of an image.

        Raises:
            TapError: If a step that is wanted can't be had.
        """
        if moves is not None and moves.corrector is not None:
            kernel = self._corrected(call, moves, masked)
        else:
            if self._wanted is None:
                self._wanted = self._decide(call)
            if not self._wanted:
                return None
            kernel = self._stochastic(call)
        x_next = kernel.sample(self.generators).to(call.sample.dtype)
        call.output["prev_sample"] = torch.cat([x_next] * (len(call.sample) // len(x_next)))
        return kernel

    def take_correction(self) -> Tensor | None:
        """What the corrector added to the log-weights since the last transition, (n,)."""
        correction, self._correction = self._correction, None
        return correction

    def _corrected(self, call: Call, moves: PoolMoves, masked: bool) -> Kernel:
        path = call.path
        assert path is not None
        if call.position == 0:
            moves.check_start(call, masked)
            self._say(
                f"{type(call.scheduler).__name__}'s step replaced by the corrector's SDE step"
            )
        move = moves.corrected(call, path)
        self._correction = move.d if self._correction is None else self._correction + move.d
        return move.kernel

    def _stochastic(self, call: Call) -> Kernel:
        if call.path is None:
            raise TapError(f"{type(call.scheduler).__name__} tells no noise level; set another")
        rows = len(self.generators)
        return sde_step(call.sample[:rows], call.x0(rows), call.path)

    def _decide(self, call: Call) -> bool:
        """Whether the project's own SDE step runs."""
        native = separates_copies(call.scheduler, call.arguments)
        # Copies made by the last transition have no future to differ in.
        early = range(call.transitions - 1)
        fires = self.resamples and any(self.engine.may_resample(i, len(early) + 1) for i in early)
        wanted = self.stochastic or (fires and not native)
        if not wanted or (native and self.stochastic is None):
            return False
        name = type(call.scheduler).__name__
        if self.stochastic is False:
            raise TapError(
                f"{name} is deterministic, so resampled copies would stay identical; leave "
                f"stochastic=None, or set a stochastic scheduler (DDIM: eta=1), or resample=None"
            )
        if hasattr(call.scheduler, "sigmas_interpol"):
            raise TapError(
                f"{name} evaluates between its noise levels and can't take stochastic steps; set "
                f"pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)"
            )
        self._say(f"{name}'s step replaced by the marginal-preserving SDE step (eta 1)")
        return True

    def _say(self, what: str) -> None:
        self.replaced = what
        _logger.info(what)

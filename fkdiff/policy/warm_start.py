r"""Warm starts: begin a decision from the last chunk of actions, not from noise.

A receding-horizon policy decides again and again about nearly the same future. The last chunk,
shifted by the actions already executed, is a good guess $\hat a$ of the next one. It is noised to
level K' and denoised from there,

$$x_{K'} = \alpha_{K'} \hat a + \sigma_{K'} z,$$

in one or a few evaluations. The law is that of the chain from that start: what the guess got
wrong shrinks by C(K') (`fkdiff.policy.contraction`), and K' is the least that makes it tolerable.

References:
    | Real-Time Iteration Scheme for Diffusion Policy (2025), arXiv 2508.05396
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from fkdiff.policy.actions import DiscreteActions

__all__ = ["ChunkMemory", "Fill", "WarmStart", "shifted"]

Fill = Literal["repeat", "extrapolate", "noise"]


@dataclass(frozen=True)
class WarmStart:
    """How a decision starts from the one before.

    Arguments:
        start: K', levels to undo, at least 1; T or more takes the cold path always. "auto" takes
            the least K' whose remaining error is within `tolerance`, from a calibration.
        evaluations: Denoiser calls of a warm decision, None for every level below K'.
        cold_evaluations: Denoiser calls from pure noise; None for the policy's own number, or else
            all levels with DDPM and 10 without noise.
        noise: "forward" noises the guess to level K'; a number in [0, 1] is that share of the
            noise; "none" hands the clean guess over as it is, as published (it isn't at level K'
            then).
        fill: What follows the shifted chunk: its last action, a line through its last two
            ("extrapolate"), or standard normal noise.
        tolerance: Bearable remaining error of an action (root mean square), for "auto"; None for
            a tenth of the policy's own spread in the calibration.
        jump: Change of a number of the observation from which a decision is cold, in units of its
            usual change (`observation_scale`); None for never.
        max_error: Distance (root mean square) of a warm decision's executed actions from its guess
            from which the decision is taken anew, cold; None for never.
        discrete: Dimensions with two values.
        skipping: A published list of levels, falling, in place of `start` and `evaluations`; each
            step goes down by one level only, whatever the list says (`Levels.skipping`).
        on_bad: "refuse" an observation that isn't finite, or "hold": go on with the last chunk.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> WarmStart(start=20).noise
        'forward'
        >>> WarmStart(start=0)
        Traceback (most recent call last):
        ValueError: start must be 'auto' or at least 1, got 0
    """

    start: int | Literal["auto"] = "auto"
    evaluations: int | None = 1
    cold_evaluations: int | None = None
    noise: float | Literal["forward", "none"] = "forward"
    fill: Fill = "repeat"
    tolerance: float | None = None
    jump: float | None = None
    max_error: float | None = None
    discrete: DiscreteActions | None = None
    skipping: tuple[int, ...] | None = None
    on_bad: Literal["refuse", "hold"] = "refuse"

    def __post_init__(self) -> None:
        if self.start != "auto" and not (isinstance(self.start, int) and self.start >= 1):
            raise ValueError(f"start must be 'auto' or at least 1, got {self.start!r}")
        for name in ("evaluations", "cold_evaluations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {value}")
        for name in ("tolerance", "jump", "max_error"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or None, got {value}")
        if isinstance(self.noise, str) and self.noise not in ("forward", "none"):
            raise ValueError(f"noise must be 'forward', 'none' or a share, got {self.noise!r}")
        if not isinstance(self.noise, str) and not 0 <= self.noise <= 1:
            raise ValueError(f"noise must be in [0, 1], got {self.noise}")
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill must be one of {', '.join(get_args(Fill))}, got {self.fill!r}")
        if self.on_bad not in ("refuse", "hold"):
            raise ValueError(f"on_bad must be 'refuse' or 'hold', got {self.on_bad!r}")

    def start_from(
        self, guess: Tensor, alpha: float, sigma: float, noise: Tensor | None
    ) -> Tensor:
        """The noisy chunks at the first level, shape (n, H, D).

        Arguments:
            guess: Shape (n, H, D).
            alpha: Signal coefficient of the level.
            sigma: Noise coefficient of the level.
            noise: Standard normal, shape (n, H, D); unused where none is added.
        """
        guess = guess if self.discrete is None else self.discrete.to_guess(guess)
        if self.noise == "none":
            return guess
        share = 1.0 if self.noise == "forward" else float(self.noise)
        return (
            alpha * guess if share == 0 or noise is None else alpha * guess + share * sigma * noise
        )


def shifted(chunks: Tensor, executed: int, fill: Fill, noise: Tensor | None = None) -> Tensor:
    """Chunks moved on by the executed actions, the end filled up.

    Arguments:
        chunks: Shape (*, H, D).
        executed: Actions executed since, in [0, H].
        fill: "repeat", "extrapolate" or "noise".
        noise: Standard normal, shape (*, H, D), for "noise".

    Raises:
        ValueError: If more actions were executed than there are.

    Example:
        >>> shifted(torch.tensor([[1.0], [2.0], [4.0]]), 2, "extrapolate").flatten().tolist()
        [4.0, 6.0, 8.0]
    """
    horizon = chunks.shape[-2]
    if not 0 <= executed <= horizon:
        raise ValueError(
            f"executed must be in [0, {horizon}], the chunk's horizon, got {executed}; "
            "decide more often, or train a longer horizon"
        )
    if executed == 0:
        return chunks
    last = chunks[..., -1:, :]
    if fill == "noise":
        if noise is None:
            raise ValueError("noise must be given to fill with noise")
        tail = noise[..., horizon - executed :, :]
    elif fill == "extrapolate" and horizon > 1:
        steps = torch.arange(1, executed + 1, dtype=chunks.dtype, device=chunks.device)[:, None]
        tail = last + steps * (last - chunks[..., -2:-1, :])
    else:
        tail = last.expand(*chunks.shape[:-2], executed, chunks.shape[-1])
    return torch.cat([chunks[..., executed:, :], tail], -2)


@dataclass
class ChunkMemory:
    """The last chunk and observation of each environment.

    Example:
        >>> memory = ChunkMemory()
        >>> memory.keep([7], torch.zeros(1, 4, 2), torch.zeros(1, 3))
        >>> memory.reset([7])
        >>> memory.known([7, 8])
        [False, False]
    """

    _chunks: dict[int, Tensor] = field(default_factory=dict)
    _observations: dict[int, Tensor] = field(default_factory=dict)

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget some environments, None for all."""
        for env in list(self._chunks) if env_ids is None else env_ids:
            self._chunks.pop(env, None)
            self._observations.pop(env, None)

    def known(self, env_ids: list[int]) -> list[bool]:
        """Whether each environment has a chunk."""
        return [env in self._chunks for env in env_ids]

    def keep(self, env_ids: list[int], chunks: Tensor, observations: Tensor) -> None:
        """Remember chunks (n, *, H, D) and observations (n, O)."""
        for env, chunk, observation in zip(env_ids, chunks, observations, strict=True):
            self._chunks[env], self._observations[env] = chunk, observation

    def chunks(self, env_ids: list[int]) -> Tensor:
        """Chunks of environments that are known, shape (n, *, H, D)."""
        return torch.stack([self._chunks[env] for env in env_ids])

    def observations(self, env_ids: list[int]) -> Tensor:
        """Observations of environments that are known, shape (n, O)."""
        return torch.stack([self._observations[env] for env in env_ids])

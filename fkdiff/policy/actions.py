"""Actions with two values, such as a gripper's command, in chunks of real numbers."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["DiscreteActions"]


@dataclass(frozen=True)
class DiscreteActions:
    r"""Dimensions whose executed value is `low` or `high`, by sign of $u = (2a - l - h)/(h - l)$.

    Near a switch a warm start would begin on the wrong side and stay there. Two cures, both with
    the factor f: "scale" (the policy was trained on u / f: both values lie close together and
    noise crosses between them) and "clip" (any policy: the guess is drawn to u = sign(u) / f
    before noise is added).

    Arguments:
        dims: Dimensions of an action.
        low: The value for a negative sign.
        high: The value for a sign that isn't negative, above `low`.
        variant: "clip" or "scale".
        factor: f, at least 1.

    Raises:
        ValueError: If a setting is out of range.

    References:
        | Real-Time Iteration Scheme for Diffusion Policy (2025), arXiv 2508.05396

    Example:
        >>> import torch
        >>> gripper = DiscreteActions(dims=(3,), low=0.0, high=1.0, variant="scale")
        >>> executed = torch.tensor([[0.2, 0.1, 0.0, 1.0], [0.2, 0.1, 0.0, 0.0]])
        >>> gripper.to_model(executed)[:, 3]
        tensor([ 0.1000, -0.1000])
        >>> torch.equal(gripper.to_executed(gripper.to_model(executed)), executed)
        True
    """

    dims: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0
    variant: Literal["clip", "scale"] = "clip"
    factor: float = 10.0

    def __post_init__(self) -> None:
        if not self.dims or any(d < 0 for d in self.dims):
            raise ValueError(f"dims must be dimensions counted from 0, got {self.dims}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.variant not in ("clip", "scale"):
            raise ValueError(f"variant must be 'clip' or 'scale', got {self.variant!r}")
        if self.factor < 1:
            raise ValueError(f"factor must be at least 1, got {self.factor}")

    def to_model(self, actions: Tensor) -> Tensor:
        """Executed actions (*, D) in the units that the policy is trained on."""
        if self.variant == "clip":
            return actions
        return self._with(actions, self._unit(actions) / self.factor)

    def to_executed(self, chunks: Tensor) -> Tensor:
        """The policy's chunks (*, D) with each discrete dimension at one of its two values."""
        raw = chunks[..., list(self.dims)]
        positive = (raw if self.variant == "scale" else self._unit(chunks)) >= 0
        return self._with(chunks, positive * (self.high - self.low) + self.low)

    def to_guess(self, chunks: Tensor) -> Tensor:
        """Guesses (*, D) drawn to the middle by "clip"; "scale" leaves them as they are."""
        if self.variant == "scale":
            return chunks
        sign = (self._unit(chunks) >= 0) * 2.0 - 1.0
        half, middle = (self.high - self.low) / 2, (self.high + self.low) / 2
        return self._with(chunks, middle + half * sign / self.factor)

    def _unit(self, actions: Tensor) -> Tensor:
        values = actions[..., list(self.dims)]
        return (2 * values - self.low - self.high) / (self.high - self.low)

    def _with(self, actions: Tensor, values: Tensor) -> Tensor:
        changed = actions.clone()
        changed[..., list(self.dims)] = values.to(actions.dtype)
        return changed

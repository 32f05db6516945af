"""What rewards computed by a network share: lazy weights, devices, batches, prompts."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from fkdiff.rewards.written import written
from fkdiff.terms.reward_algebra import Composable, check_calibration
from fkdiff.terms.reward_function import RewardError

__all__ = ["ModelReward", "check_prompts"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelReward(Composable):
    """Base of rewards computed by a network: subclasses say how to load it.

    Making one loads nothing: weights come with `prepare()` or the first call, stay for the
    reward's life and follow the samples' device.

    Arguments:
        device: Where to run, None for the device of the first samples.
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.
        batch_size: Largest number of samples scored at once.
    """

    device: str | torch.device | None = None
    mean: float = 0.0
    sd: float = 1.0
    batch_size: int = 16
    _loaded: list[nn.Module] = field(default_factory=list, init=False)

    inputs = "pixels"
    differentiable = True
    pure = True
    reads_prompts = True

    def __post_init__(self) -> None:
        check_calibration(self.mean, self.sd)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @abstractmethod
    def load(self) -> nn.Module:
        """The network: maps images (n, 3, h, w) in [0, 1] and n prompts to n values."""

    def __call__(
        self, samples: Tensor, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Values of n samples, and of the n prompts if these matter, row by row, shape (n,)."""
        n, size = len(samples), self.batch_size
        if self.reads_prompts:
            check_prompts(prompts, n, self.name)
        texts = list(prompts or []) if self.reads_prompts else [""] * n
        device = torch.device(self.device or samples.device)
        network, samples = self._network(device), samples.to(device)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            starts = range(0, max(n, 1), size)
            return torch.cat([network(samples[i : i + size], texts[i : i + size]) for i in starts])

    def prepare(self) -> None:
        """Loads the weights now, so that a missing download is told before a run starts."""
        self._network(torch.device(self.device or "cpu"))

    def to(self, device: str | torch.device) -> Self:
        """The same reward on another device; its weights are loaded anew."""
        return replace(self, device=device)

    def _network(self, device: torch.device) -> nn.Module:
        if not self._loaded:
            self._loaded.append(self.load().eval().requires_grad_(False))
        return self._loaded[0].to(device)

    def __repr__(self) -> str:
        return written(self)


def check_prompts(prompts: Sequence[str] | None, n: int, name: str) -> None:
    """Raises RewardError unless there are n prompts.

    Example:
        >>> check_prompts(["a cat", "a dog"], 2, "openclip")
    """
    if prompts is None or len(prompts) == 0:
        raise RewardError(
            f"reward {name!r} judges images by prompts, got none; pass prompts=[...]"
        )
    if isinstance(prompts, str) or len(prompts) != n:
        got = f"the string {prompts!r}" if isinstance(prompts, str) else f"{len(prompts)}"
        raise RewardError(f"reward {name!r} needs a list of {n} prompts, one per image, got {got}")

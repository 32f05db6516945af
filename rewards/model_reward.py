"""Bases of rewards computed by a network: lazy weights, devices, batches, prompts."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from fkdiff.rewards.plain import call_text
from fkdiff.rewards.weights import from_hub
from fkdiff.terms.reward_algebra import Composable, check_calibration
from fkdiff.terms.reward_function import RewardError

__all__ = ["ModelReward", "Network", "TextModelReward"]


class Network(nn.Module):
    """A function of networks, samples and prompts as a module that holds the networks."""

    def __init__(self, values: Callable[..., Tensor], *networks: nn.Module) -> None:
        super().__init__()
        self.values, self.networks = values, nn.ModuleList(networks)

    def forward(self, samples: Any, prompts: Sequence[str]) -> Tensor:
        """Values (n,)."""
        return self.values(*self.networks, samples, prompts)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelReward(Composable):
    """Base of rewards computed by a network: subclasses say how to load it.

    Making one loads nothing: weights come with `prepare()` or the first call, stay for the
    reward's life and follow the samples' device.

    Arguments:
        device: Where to run, None for the device of the first samples (texts: for the CPU).
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.
        batch_size: Largest number of samples scored at once.
    """

    device: str | torch.device | None = None
    mean: float = 0.0
    sd: float = 1.0
    batch_size: int = 16
    _loaded: nn.Module | None = field(default=None, init=False)

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
        self, samples: Any, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Values of n samples, and of the n prompts if these matter, row by row, shape (n,)."""
        n, size = len(samples), self.batch_size
        if self.reads_prompts:
            _check_prompts(prompts, n, self.name)
        texts = list(prompts or []) if self.reads_prompts else [""] * n
        device = torch.device(self.device or getattr(samples, "device", "cpu"))
        network = self._network(device)
        samples = samples.to(device) if isinstance(samples, Tensor) else list(samples)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            starts = range(0, n, size)
            parts = [network(samples[i : i + size], texts[i : i + size]) for i in starts]
        return torch.cat(parts) if parts else torch.zeros(0, device=device)

    def prepare(self) -> None:
        """Loads the weights now, so that a missing download stops a run before it starts."""
        self._network(torch.device(self.device or "cpu"))

    def to(self, device: str | torch.device) -> Self:
        """The same reward on another device; its weights are loaded anew."""
        return replace(self, device=device)

    def _network(self, device: torch.device) -> nn.Module:
        network = self._loaded
        if network is None:
            network = self.load().eval().requires_grad_(False)
            object.__setattr__(self, "_loaded", network)
        return network.to(device)

    def __repr__(self) -> str:
        return call_text(self)


@dataclass(frozen=True, eq=False, repr=False)
class TextModelReward(ModelReward):
    """Base of rewards on texts by a model of transformers; nothing is differentiable.

    Arguments:
        model: Hub id or folder.
    """

    model: str

    inputs = "text"
    differentiable = False
    pure = True
    reads_prompts = False

    def __call__(
        self, samples: Any, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Values of n texts, and of the n prompts if these matter, shape (n,)."""
        if isinstance(samples, str) or not all(isinstance(text, str) for text in samples):
            raise RewardError(f"reward {self.name!r} reads a list of texts, got {samples!r:.60}")
        return super().__call__(samples, prompts)

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The model."""
        return (from_hub(self.model),)


def _check_prompts(prompts: Sequence[str] | None, n: int, name: str) -> None:
    """Raises RewardError unless there are n prompts."""
    if prompts is None or len(prompts) == 0:
        raise RewardError(
            f"reward {name!r} judges images by prompts, got none; pass prompts=[...]"
        )
    if isinstance(prompts, str) or len(prompts) != n:
        got = f"the string {prompts!r}" if isinstance(prompts, str) else f"{len(prompts)}"
        raise RewardError(f"reward {name!r} needs a list of {n} prompts, one per image, got {got}")

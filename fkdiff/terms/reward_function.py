"""A callable as a reward: which context it gets, in what batches, and what it may return."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.terms.reward_algebra import Composable, is_pure

__all__ = [
    "Function",
    "Keywords",
    "RewardError",
    "as_column",
    "failure",
    "name_of",
    "pil_images",
    "row_wise",
]


class RewardError(ValueError):
    """A reward that can't be found, failed, or returned something that isn't a reward."""


def failure(error: BaseException) -> str:
    """Returns what went wrong in somebody's code, in words: `sys.exit()` by that name.

    Example:
        >>> failure(ValueError("too dark")), failure(SystemExit(3))
        ('ValueError: too dark', 'it called sys.exit(3)')
    """
    if isinstance(error, SystemExit):
        return f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Keywords:
    """Context keywords that a callable takes, read once from its signature.

    Arguments:
        takes: Names that it takes, None for any (`**kwargs`).
        requires: Names that it can't do without.
        reserved: Names that the run may not give: the samples' own, and what a partial has bound.

    Example:
        >>> Keywords.of(lambda images, prompts: ...).select({"prompts": ["a"], "seed": 1})
        {'prompts': ['a']}
    """

    takes: frozenset[str] | None
    requires: frozenset[str]
    reserved: frozenset[str]

    @classmethod
    def of(cls, fn: Callable[..., Any]) -> "Keywords":
        """Reads a signature; builtins without one take the samples alone."""
        try:
            signature = inspect.signature(fn.forward if isinstance(fn, nn.Module) else fn)
        except ValueError:
            return cls(frozenset(), frozenset(), frozenset())
        parameters = list(signature.parameters.values())
        places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        by_place = [p for p in parameters if p.kind in places]
        bound = fn.keywords if isinstance(fn, functools.partial) else {}
        reserved = frozenset([p.name for p in by_place[:1]]) | frozenset(bound)
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        free = [p for p in by_name if p.name not in reserved]
        takes = frozenset(p.name for p in free)
        requires = frozenset(p.name for p in free if p.default is p.empty)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return cls(None if takes_any else takes, requires, reserved)

    def select(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a run's context that the callable is given."""
        names = set(context) if self.takes is None else self.takes
        return {k: v for k, v in context.items() if k in names - self.reserved}


@dataclass(frozen=True, eq=False, repr=False)
class Function(Composable):
    """A callable as a reward; made by `as_reward`, which documents the arguments."""

    fn: Callable[..., Any]
    name: str
    inputs: str = "pixels"
    mean: float = 0.0
    sd: float = 1.0
    differentiable: bool = False
    batch_size: int | None = None
    pil: bool = False
    keywords: Keywords = Keywords(frozenset(), frozenset(), frozenset())
    source: str | None = None

    @property
    def pure(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the callable says that it edits nothing, by an attribute of its class."""
        return is_pure(self.fn)

    def __call__(self, samples: Any, **context: Any) -> Tensor:
        """Values of n samples, shape (n,), from batches of at most `batch_size`."""
        missing = sorted(self.keywords.requires - set(context))
        if missing:
            given = ", ".join(sorted(context)) or "nothing"
            raise RewardError(
                f"reward {self.name!r} needs context {', '.join(missing)}, the run gives {given}"
            )
        kept = self.keywords.select(context)
        n = len(samples)
        size = self.batch_size or max(n, 1)
        starts = range(0, max(n, 1), size)
        return torch.cat([self._batch(samples, kept, slice(i, i + size), n) for i in starts])

    def _batch(self, samples: Any, context: Mapping[str, Any], rows: slice, n: int) -> Tensor:
        batch = samples[rows]
        count = len(batch)  # which the callable may change
        context = {
            key: value[rows] if row_wise(value, n) else value for key, value in context.items()
        }
        with self._gradients():
            value = self.fn(pil_images(batch) if self.pil else batch, **context)
        value = as_column(value, count, self.name)
        # Out of inference mode a clone is an ordinary tensor, free to be stored and updated.
        return value.clone() if value.is_inference() else value

    def _gradients(self) -> AbstractContextManager[Any]:
        if self.differentiable:
            return nullcontext()
        return torch.inference_mode() if isinstance(self.fn, nn.Module) else torch.no_grad()

    def __repr__(self) -> str:
        if self.source is not None:
            return f"load_reward({self.source!r})"
        stated = {
            "name": (self.name, name_of(self.fn)),
            "inputs": ("pil" if self.pil else self.inputs, "pixels"),
            "mean": (self.mean, 0.0),
            "sd": (self.sd, 1.0),
            "differentiable": (self.differentiable, False),
            "batch_size": (self.batch_size, None),
        }
        told = [f"{key}={value!r}" for key, (value, usual) in stated.items() if value != usual]
        return f"as_reward({', '.join([_written(self.fn), *told])})"


def as_column(value: Any, n: int, name: str) -> Tensor:
    """What a reward returned, as a tensor of shape (n,).

    Arguments:
        value: Tensor, array, or list of n numbers.
        n: Number of samples.
        name: Name of the reward, for the message.

    Raises:
        RewardError: If it isn't one real number per sample.

    Example:
        >>> as_column([0.5, 1.0], 2, "mine")
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if isinstance(value, list | tuple) and value and all(isinstance(v, Tensor) for v in value):
        value = torch.stack(list(value))  # keeps gradients
    if not isinstance(value, Tensor):
        try:
            value = torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RewardError(
                f"reward {name!r} must return a tensor or a list of numbers, got {value!r:.80}"
            ) from error
    if tuple(value.shape) != (n,):
        raise RewardError(
            f"reward {name!r} must return one number per sample, shape ({n},), "
            f"got shape {tuple(value.shape)}"
        )
    if value.is_complex():
        raise RewardError(f"reward {name!r} must return real numbers, got {value.dtype}")
    return value


def row_wise(value: Any, n: int) -> bool:
    """Whether a piece of context has one entry for each of n samples.

    Example:
        >>> row_wise(["a cat", "a dog"], 2), row_wise("ab", 2)
        (True, False)
    """
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) == n
    return isinstance(value, list | tuple) and len(value) == n


def pil_images(pixels: Tensor) -> list[Any]:
    """Images (n, 3, h, w) in [0, 1] as Pillow images of 8 bits.

    Example:
        >>> pil_images(torch.ones(1, 3, 4, 6))[0].size
        (6, 4)
    """
    from PIL import Image

    levels = pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(image.numpy()) for image in levels.movedim(1, -1).cpu().contiguous()]


def name_of(fn: Callable[..., Any]) -> str:
    """The name of a callable: its own, that of what a partial wraps, or that of its class.

    Example:
        >>> name_of(functools.partial(sorted, reverse=True))
        'sorted'
    """
    if isinstance(fn, functools.partial):
        return name_of(fn.func)
    return getattr(fn, "__name__", type(fn).__name__)


def _written(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)

"""Arithmetic of rewards: `0.5 * a + b`, `a - b`, `minimum(a, b)`, `a.clip(0, 1)`.

A combination works on the **raw** values of its parts, as written: calibration constants (`mean`,
`sd`) are for the scale of `Tilt` and never enter a formula. A combination states mean 0 and sd 1
until `calibrated` says otherwise; `a.standardised() + b.standardised()` adds calibrated parts.
"""

import copy
import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from numbers import Real
from typing import Any

import torch
from torch import Tensor

__all__ = ["Combination", "Composable", "is_pure", "minimum", "values_of"]


class Composable(ABC):
    """Base of rewards that can be added, scaled, subtracted, clipped and calibrated.

    `as_reward` makes one from any callable, so inheriting is a convenience for plug-ins, not a
    duty. A subclass sets the five attributes and accepts context that it doesn't use.

    Arguments:
        name: Name in reports.
        inputs: Kind of samples, such as "pixels".
        differentiable: Whether gradients flow from the values to the samples.
        mean: Stated mean of the values, for calibration.
        sd: Stated standard deviation of the values, positive.
        pure: Whether `__call__` leaves samples and context as they are. A reward that doesn't say
            so is given copies of its own; a subclass with another `__call__` must say it anew.
        weights: Where its weights lie: paths, "hf-hub:owner/name", "hf-hub:owner/name/file",
            "torchvision:name", "https:..." or "zoo:name"; none by default.

    Example:
        >>> from fkdiff.rewards import Brightness, Colourfulness
        >>> 0.5 * Brightness() - Colourfulness()
        0.5 * Brightness() - Colourfulness()
    """

    name: str
    inputs: str
    differentiable: bool
    mean: float
    sd: float
    pure: bool = False
    weights: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, samples: Any, **context: Any) -> Tensor:
        """Scores n samples, one number each: shape (n,)."""

    def prepare(self) -> None:
        """Loads what the first call would load, so that failures are told before a run."""
        for leaf in self.leaves:
            if leaf is not self:
                leaf.prepare()

    @property
    def leaves(self) -> "tuple[Composable, ...]":
        """The rewards that this one is made of, each once; itself if it is elementary."""
        return (self,)

    def combine(self, values: Mapping[int, Tensor]) -> Tensor:
        """Value of the whole, (n,), from the values of its leaves, keyed by `id(leaf)`."""
        return values[id(self)]

    def components(self, samples: Any, **context: Any) -> dict[str, Tensor]:
        """Values by name: every leaf, evaluated once, and last the whole under its own name.

        Arguments:
            samples: The samples, n of them.
            context: Row-wise context, such as `prompts`.

        Returns:
            Tensors of shape (n,). Leaves of equal names are told apart as "f", "f (2)".
        """
        return self.named({id(leaf): values_of(leaf, samples, context) for leaf in self.leaves})

    def named(self, values: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Values of leaves, keyed by `id(leaf)`, as `components` returns them."""
        named: dict[str, Tensor] = {}
        for leaf in self.leaves:
            name, count = leaf.name, 1
            while name in named:
                count += 1
                name = f"{leaf.name} ({count})"
            named[name] = values[id(leaf)]
        return {**named, self.name: self.combine(values)}

    def clip(self, lo: float | None = None, hi: float | None = None) -> "Combination":
        """Values limited to [lo, hi]; None leaves that side open."""
        if lo is None and hi is None:
            raise ValueError("clip needs lo, hi or both, got neither; write a.clip(0, 1)")
        if lo is not None and hi is not None and not lo <= hi:
            raise ValueError(f"clip needs lo <= hi, got lo={lo}, hi={hi}; swap them")
        return _combined("clip", self, lo, hi)

    def calibrated(self, mean: float = 0.0, sd: float = 1.0) -> "Combination":
        """The same values with stated constants: `Tilt` then scales `(value - mean) / sd`.

        Arguments:
            mean: Typical value, finite.
            sd: Typical spread, positive and finite.
        """
        check_calibration(mean, sd)
        return _combined("calibrated", self, mean=mean, sd=sd)

    def standardised(self) -> "Combination":
        """The reward `(value - mean) / sd` from the stated constants, for use in a sum."""
        return (self - self.mean) / self.sd

    def __add__(self, other: "Composable | float") -> "Combination":
        return _combined("+", self, other)

    def __radd__(self, other: float) -> "Combination":
        return _combined("+", other, self)

    def __sub__(self, other: "Composable | float") -> "Combination":
        return _combined("-", self, other)

    def __rsub__(self, other: float) -> "Combination":
        return _combined("-", other, self)

    def __mul__(self, other: "Composable | float") -> "Combination":
        return _combined("*", self, other)

    def __rmul__(self, other: float) -> "Combination":
        return _combined("*", other, self)

    def __truediv__(self, other: "Composable | float") -> "Combination":
        return _combined("/", self, other)

    def __neg__(self) -> "Combination":
        return _combined("neg", self)


@dataclass(frozen=True, eq=False, repr=False)
class Combination(Composable):
    """A formula over rewards; made by the operators of `Composable` and by `minimum`.

    Arguments:
        name: The formula over the names of the leaves.
        inputs: Kind of samples, shared by all leaves.
        differentiable: Whether all leaves are.
        mean: Stated mean, 0 unless calibrated.
        sd: Stated standard deviation, 1 unless calibrated.
        op: One of "+", "-", "*", "/", "neg", "minimum", "clip", "calibrated".
        operands: Rewards, numbers, and None for an open side of `clip`.

    Example:
        >>> from fkdiff.rewards import Brightness
        >>> reward = (2 * Brightness() - 1).clip(0, None)
        >>> reward(torch.full((1, 3, 4, 4), 0.75))
        tensor([0.5000], dtype=torch.float64)
    """

    name: str
    inputs: str
    differentiable: bool
    mean: float
    sd: float
    op: str
    operands: tuple[Composable | float | None, ...]

    pure = True  # its leaves get copies of their own

    def __call__(self, samples: Any, **context: Any) -> Tensor:
        """Value of the formula, shape (n,), float64, on the CPU; shared leaves evaluated once."""
        return self.combine({id(leaf): values_of(leaf, samples, context) for leaf in self.leaves})

    @property
    def leaves(self) -> tuple[Composable, ...]:
        rewards = [part for part in self.operands if isinstance(part, Composable)]
        unique = {id(leaf): leaf for part in rewards for leaf in part.leaves}
        return tuple(unique.values())

    def combine(self, values: Mapping[int, Tensor]) -> Tensor:
        # On the CPU in float64, where the log-weights live: leaves may sit on several devices.
        parts = [
            part.combine(values).cpu().double() if isinstance(part, Composable) else part
            for part in self.operands
        ]
        return _OPS[self.op](*parts)

    def __repr__(self) -> str:
        return _written(self, repr)[0]


def minimum(*rewards: Composable | float) -> Combination:
    r"""The least of several rewards: $\min_i r_i(x)$, for "all of these at once".

    Arguments:
        rewards: Two or more rewards of the same `inputs`, or numbers.

    Raises:
        ValueError: If there are fewer than two, or `inputs` differ.

    Example:
        >>> from fkdiff.rewards import Brightness, Colourfulness
        >>> minimum(Brightness(), 0.01 * Colourfulness())
        minimum(Brightness(), 0.01 * Colourfulness())
    """
    if len(rewards) < 2:
        raise ValueError(f"minimum needs two or more rewards, got {len(rewards)}")
    return _combined("minimum", *rewards)


def is_pure(reward: Callable[..., Any]) -> bool:
    """Whether a reward says that it edits nothing, beside or below the `__call__` that it has.

    Example:
        >>> from fkdiff.rewards import Brightness
        >>> class Halved(Brightness):
        ...     def __call__(self, samples, **context):
        ...         return super().__call__(samples.mul_(0.5))
        >>> is_pure(Brightness()), is_pure(Halved())
        (True, False)
    """
    for kind in inspect.getmro(type(reward)):
        if "pure" in vars(kind):
            return getattr(reward, "pure", False) is True
        if "__call__" in vars(kind):
            return False
    return False


def values_of(reward: Callable[..., Any], samples: Any, context: Mapping[str, Any]) -> Any:
    """Returns what a reward makes of samples, which it can't change for anyone else.

    Arguments:
        reward: A reward; one that isn't known to be pure gets copies.
        samples: The samples.
        context: Keywords for the reward.

    Example:
        >>> from fkdiff.terms import as_reward
        >>> samples = torch.ones(2, 1)
        >>> doubled = as_reward(lambda x: x.mul_(2).sum(1), inputs="latents")
        >>> values_of(doubled, samples, {}), samples.sum()
        (tensor([2., 2.]), tensor(2.))
    """
    if is_pure(reward):
        return reward(samples, **context)
    return reward(_copied(samples), **{key: _copied(value) for key, value in context.items()})


def _copied(value: Any) -> Any:
    """A copy that shares no memory; gradients flow through copies of tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return [_copied(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return value if isinstance(value, str | bytes | int | float) else copy.deepcopy(value)


def check_calibration(mean: float, sd: float) -> None:
    """Raises ValueError unless `mean` is finite and `sd` is finite and positive.

    Example:
        >>> check_calibration(0.2, 0.05)
    """
    if not math.isfinite(mean):
        raise ValueError(f"mean must be a finite number, got {mean}; state the typical value")
    if not (math.isfinite(sd) and sd > 0):
        raise ValueError(f"sd must be positive and finite, got {sd}; use 1 for raw values")


def _least(*values: Tensor | float) -> Tensor:
    return reduce(torch.minimum, [torch.as_tensor(v, dtype=torch.float64) for v in values])


_OPS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "neg": operator.neg,
    "minimum": _least,
    "clip": torch.clamp,
    "calibrated": lambda value: value,
}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}
_ATOM = 4


def _combined(
    op: str, *operands: "Composable | float | None", mean: float = 0.0, sd: float = 1.0
) -> Combination:
    rewards = [_checked_operand(op, part) for part in operands]
    leaves = [reward for reward in rewards if isinstance(reward, Composable)]
    kinds = {reward.inputs: reward.name for reward in leaves}
    if not kinds:
        raise ValueError(f"{op} needs at least one reward, got only numbers: {operands}")
    if len(kinds) > 1:
        told = " and ".join(f"{name!r} takes {kind}" for kind, name in kinds.items())
        raise ValueError(f"rewards of one combination must share their inputs, but {told}")
    differentiable = all(reward.differentiable for reward in leaves)
    inputs = leaves[0].inputs
    made = Combination("", inputs, differentiable, mean, sd, op, tuple(rewards))
    return replace(made, name=_written(made, lambda leaf: leaf.name)[0])


def _checked_operand(op: str, part: object) -> Composable | float | None:
    if isinstance(part, Composable) or part is None:
        return part
    if isinstance(part, Real) and not isinstance(part, bool):
        if not math.isfinite(part):
            raise ValueError(f"numbers in a reward must be finite, got {part} for {op}")
        if op == "/" and part == 0:
            raise ValueError("a reward can't be divided by 0; use another number")
        return part if isinstance(part, int) else float(part)
    raise TypeError(
        f"{op} takes rewards and numbers, got {part!r}; wrap a plain callable with as_reward"
    )


def _written(part: object, word: Callable[[Composable], str]) -> tuple[str, int]:
    """The formula as Python and its precedence; `word` writes a leaf, as name or as `repr`."""
    if not isinstance(part, Combination):
        return (word(part) if isinstance(part, Composable) else repr(part)), _ATOM
    texts = [_written(operand, word) for operand in part.operands]
    first, *others = (text for text, _ in texts)
    if part.op == "minimum":
        return f"minimum({', '.join([first, *others])})", _ATOM
    rank = _PRECEDENCE.get(part.op, _ATOM)
    first = first if texts[0][1] >= rank else f"({first})"
    if part.op == "neg":
        return f"-{first}", rank
    if part.op == "clip":
        return f"{first}.clip({', '.join(others)})", _ATOM
    if part.op == "calibrated":
        named = word is not repr  # constants aren't values, so they aren't part of the name
        return (first if named else f"{first}.calibrated({part.mean}, {part.sd})"), _ATOM
    second = others[0] if texts[1][1] > rank else f"({others[0]})"
    return f"{first} {part.op} {second}", rank

"""The reward protocol: any callable that scores samples, higher is better.

A reward maps n samples to n numbers, row by row: the value of one particle never depends on the
others, otherwise the target p(x) exp(scale * r(x)) would not be defined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fkdiff.terms.memory import ran_out
from fkdiff.terms.reward_algebra import (
    Combination,
    Composable,
    check_calibration,
    minimum,
    values_of,
)
from fkdiff.terms.reward_finding import RewardEntry, available, load_reward
from fkdiff.terms.reward_function import (
    Function,
    Keywords,
    RewardError,
    as_column,
    failure,
    name_of,
)

__all__ = [
    "INPUTS",
    "Combination",
    "Composable",
    "Function",
    "Reward",
    "RewardEntry",
    "RewardError",
    "Where",
    "as_reward",
    "available",
    "evaluate",
    "evaluate_components",
    "load_reward",
    "minimum",
]

INPUTS = ("pixels", "rgba", "video", "audio", "text", "tokens", "simplex", "actions", "latents")


@runtime_checkable
class Reward(Protocol):
    """Scores samples, one number each, higher is better.

    Arguments:
        name: Name in reports.
        differentiable: Whether gradients flow from the values to the samples.
        inputs: What it scores: "pixels" (n, 3, h, w) in [0, 1], "rgba" (n, 4, h, w), "video",
            "audio", "text" (list of n), "tokens" (n, L), "simplex" (n, L, V), "actions"
            (n, H, D), "latents" (n, *).
        mean: Fixed calibration: typical value.
        sd: Fixed calibration: typical spread; the scale of `Tilt` is per sd.

    Example:
        >>> isinstance(as_reward(len, inputs="text"), Reward)
        True
    """

    @property
    def name(self) -> str: ...
    @property
    def differentiable(self) -> bool: ...
    @property
    def inputs(self) -> str: ...
    @property
    def mean(self) -> float: ...
    @property
    def sd(self) -> float: ...
    def __call__(self, samples: Any, **context: Any) -> Tensor: ...


@dataclass(frozen=True)
class Where:
    """Where in a run a reward is evaluated, for its error messages.

    Arguments:
        step: Transition, counted from 0; messages count from 1.
        total: Number of transitions.
        particles: Global particle index of each sample, length n.

    Example:
        >>> Where(3, 50, [0, 4, 5]).at([1, 2])
        ' at step 4 of 50 for particles 4, 5'
    """

    step: int
    total: int
    particles: Sequence[int] | Tensor

    def at(self, samples: Sequence[int] | None = None) -> str:
        """The place in words; `samples` are positions in the batch, None for all of them."""
        everyone = [int(particle) for particle in self.particles]
        chosen = everyone if samples is None else [everyone[i] for i in samples]
        told = ", ".join(map(str, chosen[:8]))
        rest = f" and {len(chosen) - 8} more" if len(chosen) > 8 else ""
        word = "particle" if len(chosen) == 1 else "particles"
        return f" at step {self.step + 1} of {self.total} for {word} {told}{rest}"


def as_reward(
    fn: Callable[..., Any],
    name: str | None = None,
    inputs: str = "pixels",
    mean: float = 0.0,
    sd: float = 1.0,
    differentiable: bool = False,
    batch_size: int | None = None,
) -> Composable:
    """Makes a reward of any callable; a reward that already composes is returned as it is.

    The callable gets the samples and those context keywords that its signature names (all of them
    if it takes `**kwargs`), and returns a tensor (n,) or a list of n numbers.

    Arguments:
        fn: Function, object or `nn.Module`. A module runs in inference mode unless
            `differentiable`.
        name: Name in reports, by default the callable's own.
        inputs: One of `INPUTS`, or "pil": pixels, handed over as a list of n PIL images.
        mean: Stated mean of the values.
        sd: Stated standard deviation of the values, positive.
        differentiable: Whether gradients flow from the values to the samples.
        batch_size: Largest number of samples in one call, None for all at once. Context of n rows
            (tensor, list or tuple) is cut along.

    Returns:
        A frozen reward that adds, scales and clips.

    Raises:
        TypeError: If `fn` isn't callable, or is a class rather than an instance.
        ValueError: If a setting is out of range, or a module would score at random (dropout, batch
            normalisation in training mode).

    Example:
        >>> import torch
        >>> redness = as_reward(lambda pixels: pixels[:, 0].mean(dim=(1, 2)), name="redness")
        >>> redness(torch.ones(2, 3, 4, 4), prompts=["a", "b"])
        tensor([1., 1.])
    """
    _check_callable(fn)
    if isinstance(fn, Reward):
        if (name, inputs, mean, sd, differentiable) != (None, "pixels", 0.0, 1.0, False):
            raise ValueError(
                f"{fn.name!r} is a reward already, its settings can't be given again; "
                "use .calibrated(mean, sd) or make it anew"
            )
        if isinstance(fn, Composable) and batch_size is None:
            check_calibration(fn.mean, fn.sd)
            return fn
        name, inputs, mean, sd = fn.name, fn.inputs, fn.mean, fn.sd
        differentiable = fn.differentiable
    if inputs not in (*INPUTS, "pil"):
        raise ValueError(f"inputs must be one of {', '.join(INPUTS)} or pil, got {inputs!r}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
    check_calibration(mean, sd)
    kind, pil = ("pixels", True) if inputs == "pil" else (inputs, False)
    settings = (name or name_of(fn), kind, mean, sd, differentiable, batch_size, pil)
    return Function(fn, *settings, Keywords.of(fn))


def evaluate(
    reward: Callable[..., Any],
    samples: Any,
    context: Mapping[str, Any] | None = None,
    where: Where | None = None,
) -> Tensor:
    """Values of a reward, checked: numbers, one per sample; -inf says "never".

    Arguments:
        reward: A reward, or any callable for pixels.
        samples: n samples of the kind that `reward.inputs` names.
        context: Row-wise context, such as `prompts`, a list of n strings.
        where: Place in the run, for error messages.

    Returns:
        Shape (n,), float64, on the CPU.

    Raises:
        RewardError: If a part of the reward fails, returns another shape, NaN or +inf. The message
            names that part, step and particles; an exception inside it is chained.

    Example:
        >>> length = as_reward(lambda texts: [len(text) for text in texts], inputs="text")
        >>> evaluate(length, ["ab", ""])
        tensor([2., 0.], dtype=torch.float64)
    """
    composed = as_reward(reward)
    return _components(composed, samples, context, where)[composed.name]


def evaluate_components(
    reward: Callable[..., Any],
    samples: Any,
    context: Mapping[str, Any] | None = None,
    where: Where | None = None,
) -> dict[str, Tensor]:
    """Checked values by name: each leaf of a combination, and last the reward itself.

    Arguments, errors and tensors are those of `evaluate`; nothing is evaluated twice.

    Example:
        >>> import torch
        >>> from fkdiff.rewards import Brightness
        >>> white = torch.ones(1, 3, 2, 2)
        >>> {k: v.item() for k, v in evaluate_components(2 * Brightness(), white).items()}
        {'brightness': 1.0, '2 * brightness': 2.0}
    """
    return _components(as_reward(reward), samples, context, where)


def _components(
    composed: Composable, samples: Any, context: Mapping[str, Any] | None, where: Where | None
) -> dict[str, Tensor]:
    n, context = len(samples), context or {}
    values = {id(leaf): _score(leaf, samples, context, where, n) for leaf in composed.leaves}
    named = composed.named(values)
    _check_numbers(named[composed.name], composed.name, where)
    return named


def _score(
    leaf: Composable, samples: Any, context: Mapping[str, Any], where: Where | None, n: int
) -> Tensor:
    try:
        value = as_column(values_of(leaf, samples, context), n, leaf.name)
    except RewardError as error:
        raise RewardError(f"{error}{where.at() if where else ''}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also sys.exit(), which would end the run without a word
        if ran_out(error):  # what it is matters to whoever takes smaller batches
            error.add_note(f"in reward {leaf.name!r}{where.at() if where else ''}")
            raise
        raise RewardError(
            f"reward {leaf.name!r} failed{where.at() if where else ''}: {failure(error)}"
        ) from error
    _check_numbers(value, leaf.name, where)
    # Copied: a reward may return a part of the samples, or a buffer that it uses again.
    return value.to("cpu", torch.float64, copy=True)


def _check_numbers(value: Tensor, name: str, where: Where | None) -> None:
    for word, bad in (("NaN", value.isnan()), ("+inf", value.isposinf())):
        if bad.any():
            at = where.at(bad.nonzero()[:, 0].tolist()) if where else ""
            raise RewardError(
                f"reward {name!r} returned {word}{at}; return a number, or -inf for what must "
                "never happen"
            )


def _check_callable(fn: object) -> None:
    if isinstance(fn, type):
        raise TypeError(f"as_reward takes an instance, got the class; write {fn.__name__}(...)")
    if not callable(fn):
        raise TypeError(f"as_reward takes a callable, got {fn!r}; write a function of the samples")
    if isinstance(fn, nn.Module):
        random = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
        noisy = [m for m in fn.modules() if m.training and isinstance(m, random)]
        if noisy:
            raise ValueError(
                f"{type(fn).__name__} is in training mode and its {type(noisy[0]).__name__} would "
                "make the reward random; call .eval() first"
            )

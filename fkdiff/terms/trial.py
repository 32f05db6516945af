"""Rewards are tried on a stand-in for the samples before anything is drawn.

A reward that can't score what it will be given, such as one that works on PIL images, would
otherwise fail in the middle of a run, and a monitor at its end.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.terms.memory import ran_out
from fkdiff.terms.reward import as_reward
from fkdiff.terms.reward_algebra import Composable, values_of
from fkdiff.terms.reward_function import Function, RewardError, as_column, failure
from fkdiff.terms.untouched import untouched

if TYPE_CHECKING:
    from fkdiff.terms.step import Step

__all__ = [
    "StandIn",
    "Trial",
    "TrialError",
    "check_agreed",
    "made_up",
    "stand_in_of",
    "try_rewards",
]

# An error of these classes is one of the code; others may speak of the sample ("no face found").
_OF_CODE = (TypeError, AttributeError, NameError, ImportError, OSError, NotImplementedError)
_OF_SHAPE = (RuntimeError, IndexError)
# So may these, of a search that found nothing.
_FOUND_NOTHING = ("NoneType", "list index out of range", "string index out of range")


class TrialError(RewardError):
    """A reward can't score what the run would give it; nothing was drawn."""


@dataclass(frozen=True)
class StandIn:
    """Two made-up samples of the kind and shape that a reward will be given.

    Arguments:
        samples: The samples.
        exact: Whether theirs is the shape of the run's samples, and not an estimate of it.
    """

    samples: Any
    exact: bool = True


@dataclass(frozen=True)
class Trial:
    """What came of trying a reward.

    Arguments:
        reward: The reward, not a formula.
        values: Of the two samples; None where it failed and the samples may be the reason.
        exact: Whether they had the shape of the run's samples, so that it needn't be tried again.
    """

    reward: Composable
    values: Tensor | None
    exact: bool


def made_up(inputs: str, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Two samples of noise, (2, *shape), always the same: in [0, 1] where rewards see pictures.

    Arguments:
        inputs: What the reward reads.
        shape: Of one sample.
        device: Where to.

    Example:
        >>> made_up("pixels", 3, 8, 8).shape
        torch.Size([2, 3, 8, 8])
    """
    generator = torch.Generator().manual_seed(0)
    if inputs in ("pixels", "rgba", "video"):
        return torch.rand((2, *shape), generator=generator).to(device)
    noise = torch.randn((2, *shape), generator=generator)
    return (0.1 * noise if inputs == "audio" else noise).to(device)


def stand_in_of(step: "Step", inputs: str) -> StandIn:
    """Samples decoded from noise of a transition's very shape, the same on every process."""
    x, decode = step.x_next, step.source.decode
    if not x.is_floating_point():
        return StandIn(decode(step.x0[:1].repeat(2, 1), inputs))
    latents = made_up("latents", *x.shape[1:], device=x.device).to(x.dtype)
    if inputs == "latents":
        return StandIn(latents)
    # Decoded alone, as a pipeline's own tail may have no second row.
    samples = decode(latents[:1], "pixels" if inputs == "rgba" else inputs)
    if not isinstance(samples, Tensor):
        return StandIn([*samples, *samples])
    if inputs == "rgba":
        samples = torch.cat([samples, samples[:, :1]], dim=1)
    return StandIn(samples.repeat(2, *[1] * (samples.ndim - 1)))


def try_rewards(
    rewards: Sequence[Callable[..., Any]],
    stand_in: Callable[[str], StandIn | None],
    context: Mapping[str, Sequence[Any]],
) -> list[Trial]:
    """Try each part of each reward once; what it counts or draws meanwhile is put back.

    A NaN, an arithmetic error or a ValueError is no reason to refuse: a made-up sample may be
    outside of what the reward is for.

    Arguments:
        rewards: Those that steer and those that are monitored.
        stand_in: Samples for `reward.inputs`, None where none can be made up.
        context: Row-wise context of the two samples.

    Returns:
        What came out of each part.

    Raises:
        TrialError: If one can't score them; names the reward, what it was given and the remedy.

    Example:
        >>> pictures = StandIn(torch.ones(2, 3, 4, 4))
        >>> sizes = as_reward(lambda images: [image.size[0] for image in images], name="sizes")
        >>> try_rewards([sizes], lambda inputs: pictures, {})
        Traceback (most recent call last):
        fkdiff.terms.trial.TrialError: reward 'sizes' can't score ...; ...inputs="pil"...
    """
    trials = []
    for leaf in {id(leaf): leaf for r in rewards for leaf in as_reward(r).leaves}.values():
        given = stand_in(leaf.inputs)
        values = None if given is None else _tried(leaf, given, context)
        trials.append(Trial(leaf, values, given is not None and given.exact))
    return trials


def check_agreed(trials: Sequence[Trial], shards: Shards) -> None:
    """Refuse a reward by which processes that share a cloud would weigh samples differently.

    Arguments:
        trials: Those of this process; the others have as many.
        shards: The processes.

    Raises:
        TrialError: On all of them, if one gives another value for the same sample.
    """
    if shards.world == 1 or not trials:
        return
    said = json.dumps([None if t.values is None else t.values.tolist() for t in trials])
    heard = [json.loads(text) for text in shards.told(said, 64 * len(trials))]
    for place, trial in enumerate(trials):
        for rank, values in enumerate(heard):
            first, other = heard[0][place], values[place]
            if None not in (first, other) and not np.allclose(
                first, other, rtol=1e-4, atol=1e-6, equal_nan=True
            ):
                raise TrialError(
                    f"reward {trial.reward.name!r} must give the same value on every process of "
                    f"the group, but for one sample process 0 gives {first[0]:.6g} and process "
                    f"{rank} {other[0]:.6g}; leave out what depends on the process, such as its "
                    f"rank, a seed or a file of its own"
                )


def _tried(leaf: Composable, given: StandIn, context: Mapping[str, Any]) -> Tensor | None:
    """Values of a leaf; None where it failed and the samples may be the reason."""
    known, key = _known(leaf), (leaf.inputs, tuple(getattr(given.samples, "shape", ())))
    if key not in known:
        try:
            known[key] = _values(leaf, given.samples, context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            remedy = _remedy(leaf, given.samples, context)
            if ran_out(error) or not (remedy or _of_code(error, given.exact)):
                return None
            told = str(error) if isinstance(error, RewardError) else failure(error)
            remedy = remedy or "mend it, or wrap what it reads: as_reward(function, inputs=...)"
            raise TrialError(
                f"reward {leaf.name!r} can't score what it would be given, "
                f"{_described(given.samples, leaf.inputs)}: {told}; {remedy}"
            ) from error
    return known[key]


def _known(leaf: Composable) -> dict[Any, Tensor]:
    """Values of trials before: a reward may be dear, and is tried once for all its runs."""
    return vars(leaf).setdefault("_tried", {}) if hasattr(leaf, "__dict__") else {}


def _values(leaf: Composable, samples: Any, context: Mapping[str, Any]) -> Tensor:
    with untouched(leaf), torch.no_grad():
        value = as_column(values_of(leaf, samples, context), len(samples), leaf.name)
        return value.to("cpu", torch.float64, copy=True)


def _of_code(error: BaseException, exact: bool) -> bool:
    if any(words in str(error) for words in _FOUND_NOTHING):
        return False
    return isinstance(error, (*_OF_CODE, RewardError, *(_OF_SHAPE if exact else ())))


def _remedy(leaf: Composable, samples: Any, context: Mapping[str, Any]) -> str:
    """What to write for a reward that scores PIL images; nothing for another."""
    of_images = _of_images(leaf)
    if of_images is None or not isinstance(samples, Tensor):
        return ""
    try:
        _values(of_images, samples, context)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return ""
    return 'it works on PIL images, so write as_reward(function, inputs="pil")'


def _of_images(leaf: Any) -> Any:
    """The same reward, handed PIL images; None for one that can't be, or is already."""
    if isinstance(leaf, Function):
        return replace(leaf, pil=True) if leaf.inputs == "pixels" and not leaf.pil else None
    held = getattr(leaf, "reward", None)  # of a time limit, or frame by frame
    changed = None if held is None else _of_images(held)
    return None if changed is None else replace(leaf, reward=changed)


def _described(samples: Any, inputs: str) -> str:
    if isinstance(samples, Tensor):
        kind = str(samples.dtype).removeprefix("torch.")
        return f"{inputs} as a {kind} tensor of shape {tuple(samples.shape)}"
    return f"{inputs} as a list of {len(samples)}"

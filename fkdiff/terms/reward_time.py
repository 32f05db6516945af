"""Rewards that may hang: a limit to the seconds that a call takes."""

import contextvars
import queue
import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fkdiff.terms.reward_algebra import Combination, Composable, is_pure
from fkdiff.terms.reward_function import RewardError

__all__ = ["TimeLimit", "within_seconds"]


@dataclass(frozen=True, eq=False, repr=False)
class TimeLimit(Composable):
    """A reward whose calls end in time or raise; made by `within_seconds`.

    Its values are those of the reward, and so are its name and its `repr`.
    """

    name: str
    inputs: str
    differentiable: bool
    mean: float
    sd: float
    reward: Composable
    seconds: float

    def __call__(self, samples: Any, **context: Any) -> Tensor:
        """Values of n samples, shape (n,).

        Raises:
            RewardError: If the call takes too long; its thread can't be ended, and is left alone.
        """
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        # Both belong to a thread, and are taken along.
        gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def answer() -> None:
            try:
                with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                    answers.put((True, self.reward(samples, **context)))
            except BaseException as error:
                answers.put((False, error))

        run = contextvars.copy_context().run  # in which the run's own pipeline may be called
        name = f"reward {self.name}"
        threading.Thread(target=run, args=(answer,), name=name, daemon=True).start()
        try:
            made, value = answers.get(timeout=self.seconds)
        except queue.Empty:
            raise RewardError(
                f"reward {self.name!r} took more than {self.seconds:g} s; mend it or allow it more"
            ) from None
        if not made:
            raise value
        return value

    @property
    def pure(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the reward is."""
        return is_pure(self.reward)

    def prepare(self) -> None:
        """Loads what the reward needs, in whatever time it takes."""
        self.reward.prepare()

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The reward's own."""
        return self.reward.weights

    def __repr__(self) -> str:
        return repr(self.reward)


def within_seconds(reward: Composable, seconds: float) -> Composable:
    """The same reward, whose calls raise after so many seconds; in a formula each part of it.

    Arguments:
        reward: A reward or a formula.
        seconds: Limit of one call, positive.

    Raises:
        ValueError: If `seconds` isn't positive.

    Example:
        >>> import time
        >>> from fkdiff.terms import as_reward
        >>> slow = as_reward(lambda x: [time.sleep(9)], name="slow", inputs="text")
        >>> within_seconds(1 - slow, 0.01)(["a"])
        Traceback (most recent call last):
        fkdiff.terms.reward_function.RewardError: reward 'slow' took more than 0.01 s; ...
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}; leave it out for no limit")
    made = {id(leaf): _limited(leaf, seconds) for leaf in reward.leaves}

    def again(part: Any) -> Any:
        if id(part) in made:
            return made[id(part)]
        if isinstance(part, Combination):
            return replace(part, operands=tuple(map(again, part.operands)))
        return part

    return again(reward)


def _limited(leaf: Composable, seconds: float) -> TimeLimit:
    told = (leaf.name, leaf.inputs, leaf.differentiable, leaf.mean, leaf.sd)
    return TimeLimit(*told, leaf, seconds)

"""The class decorator behind the RLG pipelines: a stock call that also leans on a tuned expert."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from fkdiff.pipelines.steerable import joined_signature, saved_as_stock, wanted_pictures
from fkdiff.steering import steer
from fkdiff.terms import Correct, RLGuidance

__all__ = ["rl_guided"]

P = TypeVar("P", bound=type)


def rl_guided(cls: P) -> P:
    """Add `tuned` and its companions to a pipeline class, and save it as its stock class.

    `__call__` gets keyword-only `tuned, w, interval, mode`, as in `fkdiff.RLGuidance`, and
    `correct, particles, micro_batch`: with `correct=True` each picture is drawn from a weighted
    cloud of so many particles. Without `tuned` it is the stock call, bit for bit.

    Arguments:
        cls: A pipeline class whose first base is the stock pipeline.
    """
    base = cls.__mro__[1]
    stock_call = base.__call__

    @functools.wraps(stock_call)
    def call(
        self: Any,
        *args: Any,
        tuned: str | Any | Mapping[Any, float] | None = None,
        w: float | Callable[[float], float] = 1.0,
        interval: tuple[float, float] | None = None,
        mode: Literal["output", "weights"] = "output",
        correct: bool = False,
        particles: int = 4,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if tuned is None:
            return stock_call(self, *args, **kwargs)
        terms = (RLGuidance(tuned, w, interval, mode), *([Correct()] if correct else []))
        if not correct:  # every particle is a picture of its own
            particles = wanted_pictures(kwargs)
        settings = {"particles": particles, "micro_batch": micro_batch}
        select = "sample" if correct else "all"
        return steer(self, *terms, select=select, **settings)(*args, **kwargs)

    own = inspect.signature(call, follow_wrapped=False)
    vars(call)["__signature__"] = joined_signature(inspect.signature(stock_call), own)
    cls.__call__ = call
    cls.save_pretrained = saved_as_stock(base)
    return cls

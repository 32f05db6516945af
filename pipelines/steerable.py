"""The class decorator behind the FK pipelines: a stock call that also takes terms."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fkdiff.smc import Resample
from fkdiff.steering import steer
from fkdiff.terms import Term

__all__ = ["joined_signature", "saved_as_stock", "steerable", "wanted_pictures"]

P = TypeVar("P", bound=type)


def steerable(cls: P) -> P:
    """Add `terms` and its companions to a pipeline class, and save it as its stock class.

    `__call__` gets keyword-only `terms, particles, resample, stochastic, micro_batch, select`, as
    in `fkdiff.steer`; without `terms` it is the stock call, bit for bit. `save_pretrained` writes
    the stock class's name, so that the checkpoint loads anywhere.

    Arguments:
        cls: A pipeline class whose first base is the stock pipeline.
    """
    base = cls.__mro__[1]
    stock_call = base.__call__

    @functools.wraps(stock_call)
    def call(
        self: Any,
        *args: Any,
        terms: Sequence[Term] | None = None,
        particles: int = 4,
        resample: Resample | None = Resample(),  # noqa: B008  # frozen
        stochastic: bool | None = None,
        micro_batch: int | None = None,
        select: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if terms is None:
            return stock_call(self, *args, **kwargs)
        steered = steer(
            self,
            *terms,
            particles=particles,
            resample=resample,
            stochastic=stochastic,
            micro_batch=micro_batch,
            select=select,
        )
        return steered(*args, **kwargs)

    own = inspect.signature(call, follow_wrapped=False)
    vars(call)["__signature__"] = joined_signature(inspect.signature(stock_call), own)
    cls.__call__ = call
    cls.save_pretrained = saved_as_stock(base)
    return cls


def saved_as_stock(base: Any) -> Callable[..., None]:
    """A `save_pretrained` that writes what the stock class would: the folder loads anywhere."""

    @functools.wraps(base.save_pretrained)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
        stock = copy.copy(self)  # with its whole config, of which components are a part
        stock.__class__ = base
        stock.save_pretrained(*args, **kwargs)

    return save_pretrained


def wanted_pictures(call: Mapping[str, Any]) -> int:
    """Pictures that a call asks for, of each prompt.

    Raises:
        ValueError: If there are none.
    """
    stated = call.get("num_images_per_prompt")
    if stated is not None and stated < 1:
        raise ValueError(f"num_images_per_prompt must be at least 1, got {stated}")
    return 1 if stated is None else int(stated)


def joined_signature(stock: inspect.Signature, own: inspect.Signature) -> inspect.Signature:
    """The stock parameters followed by our keyword-only ones."""
    stated = list(stock.parameters.values())
    extra = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
    tail = [p for p in stated if p.kind is p.VAR_KEYWORD]
    return stock.replace(parameters=[p for p in stated if p not in tail] + extra + tail)

"""The class decorator behind the Alfie pipelines: a stock call whose pictures have alpha."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from fkdiff.pipelines.steerable import joined_signature, saved_as_stock, wanted_pictures
from fkdiff.rgba import Cutout, Mask
from fkdiff.rgba.mattes import Method
from fkdiff.steering import steer
from fkdiff.terms import Term

__all__ = ["transparent"]

P = TypeVar("P", bound=type)


def transparent(cls: P) -> P:
    """Let a pipeline class draw cut-outs, and save it as its stock class.

    `__call__` gets keyword-only `background, mask, subject, method`, as in `fkdiff.Cutout`;
    `terms, particles`: with terms such as `Tilt(Uncropped())` each picture is the best of a cloud;
    `seeds`: one for each picture, which makes it the same in any company (a list of as many
    generators supplies them too); `micro_batch`. With `background=None` it is the stock call.

    Arguments:
        cls: A pipeline class whose first base is the stock pipeline.
    """
    base = cls.__mro__[1]
    stock_call = base.__call__

    @functools.wraps(stock_call)
    def call(
        self: Any,
        *args: Any,
        background: str | None = "a white background",
        mask: Mask | None = Mask(),  # noqa: B008  # frozen
        subject: str | None = None,
        method: Method = "default",
        terms: Sequence[Term] = (),
        particles: int = 4,
        seeds: Sequence[int] | None = None,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if background is None:
            return stock_call(self, *args, **kwargs)
        if not terms:  # every particle is a picture of its own
            particles = wanted_pictures(kwargs)
        generators = kwargs.get("generator")
        if seeds is None and isinstance(generators, list) and len(generators) > 1:
            seeds = [generator.initial_seed() for generator in generators]
        cutout = Cutout(background, mask, subject, method)
        steered = steer(
            self,
            cutout,
            *terms,
            particles=particles,
            micro_batch=micro_batch,
            select=None if terms else "all",
            seed=None if seeds is None else list(seeds),
        )
        with torch.no_grad():  # the run's own calls of this pipeline are stock ones
            return steered(*args, background=None, **kwargs)

    own = inspect.signature(call, follow_wrapped=False)
    vars(call)["__signature__"] = joined_signature(inspect.signature(stock_call), own)
    cls.__call__ = call
    cls.save_pretrained = saved_as_stock(base)
    return cls

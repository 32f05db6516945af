"""What a pipeline prepares for its rows, prompt by prompt: as each prompt's own call would."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from fkdiff.taps.per_prompt import PerPrompt
from fkdiff.taps.shadowing import shadowed
from fkdiff.taps.texts import texts_apart

__all__ = ["drawing_methods", "drawn_images", "prompts_apart"]

_TABLE = 3
"""Coordinates a cell in tables of positions, which all rows share."""


def drawing_methods(pipe: Any) -> dict[str, Any]:
    """Methods with which a pipeline encodes or draws for its rows, and their signatures."""
    found = {}
    for name in dir(type(pipe)):
        if name.lstrip("_").startswith(("prepare", "encode")):
            method = inspect.getattr_static(type(pipe), name)
            if inspect.isfunction(method):
                signature = inspect.signature(method)
                if "generator" in signature.parameters:
                    found[name] = signature
    return found


def drawn_images(pipe: Any) -> frozenset[str]:
    """Images of a call that such a method takes."""
    taken = {name for s in drawing_methods(pipe).values() for name in s.parameters}
    pairs = {"mask_image": "mask", "mask": "mask", "image": "image", "last_image": "last_image"}
    return frozenset(name for name, inner in pairs.items() if inner in taken)


@contextmanager
def prompts_apart(
    pipe: Any, inputs: PerPrompt | None, generators: Sequence[torch.Generator], apart: bool
) -> Iterator[None]:
    """Let a pipeline prepare what each prompt has of its own as its own call would.

    One call of two prompts would encode their two images by the first prompt's generators, and
    lay them out row by row whatever their prompt.

    Arguments:
        pipe: The pipeline.
        inputs: The call by prompt.
        generators: One for each row, prompt-major.
        apart: Whether each prompt must come out as it does alone: its texts are then encoded
            alone, and an image that all share is encoded for each.
    """
    prompts = 1 if inputs is None else inputs.prompts
    with ExitStack() as stack:
        if apart:
            stack.enter_context(texts_apart(pipe, prompts))
        if inputs is not None and prompts > 1 and (inputs.images or (apart and inputs.pictured)):
            methods = {
                name: _apart(getattr(pipe, name), signature, generators, prompts)
                for name, signature in drawing_methods(pipe).items()
            }
            stack.enter_context(shadowed(pipe, **methods))
        yield


def _apart(
    method: Callable[..., Any],
    signature: inspect.Signature,
    generators: Sequence[torch.Generator],
    prompts: int,
) -> Callable[..., Any]:
    rows = len(generators)

    @functools.wraps(method)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(None, *args, **kwargs)
        given = {name: v for name, v in bound.arguments.items() if name != "self"}
        own = given.get("generator")
        # Calls within the call of one prompt, and those of other runs, have other generators.
        if not isinstance(own, list) or len(own) != rows or own[0] is not generators[0]:
            return method(*args, **kwargs)
        made = [
            method(**{name: _part(name, v, p, prompts, rows) for name, v in given.items()})
            for p in range(prompts)
        ]
        return _together(made, rows // prompts)

    return prepare


def _part(name: str, value: Any, prompt: int, prompts: int, rows: int) -> Any:
    """What one prompt's own call would hand over."""
    each = rows // prompts
    if name == "generator":
        return value[prompt * each : (prompt + 1) * each]
    if name == "batch_size":
        return value // prompts if value in (prompts, rows) else value
    if isinstance(value, Tensor) and value.ndim and len(value) in (prompts, rows):
        size = len(value) // prompts
        return value[prompt * size : (prompt + 1) * size]
    return value


def _together(made: list[Any], each: int) -> Any:
    """Rows of all prompts, prompt-major in each of the copies that guidance asks for."""
    first = made[0]
    if isinstance(first, tuple | list):
        return type(first)(_together(list(parts), each) for parts in zip(*made, strict=True))
    if not isinstance(first, Tensor) or not first.ndim:
        return first
    shared = first.ndim <= 2 and (len(first) != each or first.shape[-1] == _TABLE)
    if shared or len(first) % each:
        if all(torch.equal(first, other) for other in made[1:]):
            return first
        return torch.cat([part.repeat_interleave(each, dim=0) for part in made])
    halves = [part.reshape(-1, each, *part.shape[1:]) for part in made]
    return torch.cat(halves, dim=1).flatten(0, 1)

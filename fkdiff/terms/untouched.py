"""Puts back what a call of somebody's function counted or drew."""

import functools
import operator
import os
import random
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["untouched"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), Tensor)
_GENERATORS = (torch.Generator, np.random.RandomState)
_Undo = Callable[[], object]


@contextmanager
def untouched(function: Callable[..., Any]) -> Iterator[None]:
    """Puts random generators, counters, lists and the working folder back at the block's end.

    Inside the block the global generators of torch, NumPy and Python start at a fixed seed. What
    the function holds is found in its closure, its attributes and the globals that it names;
    models that it loaded are kept.

    Arguments:
        function: What is called in the block.

    Example:
        >>> calls, stream = [], torch.Generator().manual_seed(0)
        >>> def score(x):
        ...     calls.append(len(x))
        ...     return torch.rand(len(x), generator=stream)
        >>> with untouched(score):
        ...     first = score([1, 2])
        >>> list(calls), torch.equal(score([1, 2]), first)
        ([], True)
    """
    undo = list(_undoing(function, set(), whole=True))
    numpy, python = np.random.get_state(), random.getstate()
    try:
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with chdir(os.getcwd()), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)
        for put_back in undo:
            put_back()


def _undoing(value: Any, seen: set[int], whole: bool = False) -> Iterator[_Undo]:
    """Yields functions that restore a value and what it holds; an object only if it is whole.

    Objects that the function merely uses, such as a pipeline, are left alone.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, _GENERATORS):
        state = value.get_state()
        yield functools.partial(value.set_state, state)  # pyright: ignore[reportArgumentType]
    elif isinstance(value, np.random.Generator):
        yield functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    elif isinstance(value, random.Random):
        yield functools.partial(value.setstate, value.getstate())
    elif type(value) in (list, dict, set):
        yield functools.partial(_refill, value, value.copy())
    elif isinstance(value, FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, MethodType):
        yield from _undoing(value.__func__, seen)
        yield from _undoing(value.__self__, seen, whole)
    elif isinstance(value, functools.partial):
        for part in (*value.args, *value.keywords.values()):
            yield from _undoing(part, seen)
        yield from _undoing(value.func, seen, whole)
    elif whole and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from _of_object(value, seen)


def _of_function(function: FunctionType, seen: set[int]) -> Iterator[_Undo]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell that nothing was put into yet
            held = cell.cell_contents
            if isinstance(held, _PLAIN):
                yield functools.partial(setattr, cell, "cell_contents", held)
            yield from _undoing(held, seen)
    yield from _names(function.__dict__, list(function.__dict__), seen)
    space = function.__globals__
    used = [name for name in _used(function.__code__) if name in space]
    # Functions of other modules are those of libraries.
    yield from _names(space, [n for n in used if _own(space[n], space)], seen)


def _own(value: Any, space: dict[str, Any]) -> bool:
    return not isinstance(value, FunctionType) or value.__globals__ is space


def _used(code: CodeType) -> list[str]:
    """Names that code and the functions within it ask for."""
    within = [part for part in code.co_consts if isinstance(part, CodeType)]
    return [*code.co_names, *(name for part in within for name in _used(part))]


def _of_object(value: Any, seen: set[int]) -> Iterator[_Undo]:
    kind = type(value)
    plain = {k: v for k, v in vars(kind).items() if isinstance(v, int | float)}
    yield functools.partial(_reset, kind, plain)
    for held in vars(kind).values():
        yield from _undoing(held, seen)
    # A network in use changes nothing; its parameters are many.
    names = [name for name in vars(value) if not isinstance(value, nn.Module) or name[0] != "_"]
    for name in ("fn", "reward"):  # of a reward: what it calls
        yield from _undoing(vars(value).get(name), seen, whole=True)
    yield from _names(vars(value), names, seen)


def _names(space: dict[str, Any], names: list[str], seen: set[int]) -> Iterator[_Undo]:
    numbers = {
        name: space[name] for name in names if isinstance(space[name], int | float | Tensor)
    }
    yield functools.partial(_renumber, space, numbers)
    for name in names:
        yield from _undoing(space[name], seen)


def _renumber(space: dict[str, Any], numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if isinstance(space.get(name), int | float | Tensor):
            space[name] = value


def _reset(kind: type, plain: dict[str, Any]) -> None:
    for name, value in plain.items():
        if getattr(kind, name, None) is not value:
            setattr(kind, name, value)


def _refill(holder: Any, before: Any) -> None:
    """Fill a list, mapping or set as it was, unless it holds a model that was loaded since."""
    now, then = (list(h.items()) if isinstance(h, dict) else list(h) for h in (holder, before))
    if not all(map(_is_plain, now)):
        return
    if len(now) != len(then) or any(map(operator.is_not, _flat(now), _flat(then))):
        holder.clear()
        (holder.extend if isinstance(holder, list) else holder.update)(before)


def _flat(entries: list[Any]) -> Iterator[Any]:
    """Entries, and keys and values of the pairs among them."""
    for entry in entries:
        yield from entry if isinstance(entry, tuple) else (entry,)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)

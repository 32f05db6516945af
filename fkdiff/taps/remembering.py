"""Networks that keep something of a call for the next one, where rows lose their particles."""

import functools
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

from fkdiff.taps.coefficients import TapError

__all__ = ["check_forgetful"]


def check_forgetful(name: str, network: torch.nn.Module) -> bool:
    """Refuse a network that answers from what it kept of earlier calls.

    Feature caches hold activations of the rows that they saw last. A resampling puts other
    particles in those rows, and a micro-batch shows other rows altogether.

    Arguments:
        name: Where the pipeline holds it.
        network: The network, also one that `torch.compile` wraps.

    Returns:
        Whether parts have another forward, which may yet keep what it sees of a call.

    Raises:
        TapError: With what keeps them and the remedy.
    """
    parts = list(network.named_modules())
    for hooked in [module for _, module in parts if "_diffusers_hook" in vars(module)]:
        kept = next(_stateful(hooked), None)
        if kept is not None:
            raise TapError(
                f"{name} has a cache ({kept}) that keeps activations from step to step, which "
                f"can't follow resampled particles; call pipe.{name}.disable_cache() first"
            )
    seen: dict[int, str] = {}
    replaced = _replaced(network, parts)
    for path, forward in replaced:
        held = list(_held(forward))
        if any(isinstance(one, Tensor) for one in held) or any(id(one) in seen for one in held):
            raise TapError(
                f"forward of {name}.{path} is replaced by one that keeps something for the next "
                f"call, as DeepCache and its like do to answer from earlier steps, which can't "
                f"follow resampled particles; take it off first (DeepCache: helper.disable())"
            )
        seen |= {id(one): path for one in held}
    return bool(replaced)


def _replaced(
    network: torch.nn.Module, parts: list[tuple[str, torch.nn.Module]]
) -> list[tuple[str, Any]]:
    """Parts of a network, by path, to which someone gave another forward, and that forward.

    What diffusers' and accelerate's hooks replace doesn't count, and neither does the forward of
    the whole, which sees every call.
    """
    whole = (network, getattr(network, "_orig_mod", network))
    return [
        (path, vars(module)["forward"])
        for path, module in parts
        if "forward" in vars(module)
        and not any(module is part for part in whole)
        and not hasattr(module, "_diffusers_hook")
        and not hasattr(module, "_hf_hook")
    ]


def _held(value: Any, depth: int = 4) -> Iterator[Any]:
    """Tensors, containers and objects that a function can keep something in, modules excepted."""
    if isinstance(value, Tensor):
        yield value
        return
    if depth == 0 or isinstance(value, (torch.nn.Module, type, ModuleType, str, bytes)):
        return
    if isinstance(value, (dict, list, set)) or hasattr(value, "__dict__"):
        if not callable(value):
            yield value
    for part in _parts(value):
        yield from _held(part, depth - 1)


def _parts(value: Any) -> Iterator[Any]:
    """What a function, a container or an object refers to by itself."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, FunctionType):
        cells = (cell for cell in value.__closure__ or () if cell != CellType())
        yield from (cell.cell_contents for cell in cells)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from vars(value).values()
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, set)):
        yield from value
    elif hasattr(value, "__dict__"):
        yield from vars(value).values()


def _stateful(module: Any) -> Iterator[str]:
    """Names of diffusers' hooks on a module that keep a state."""
    hooks = getattr(module._diffusers_hook, "hooks", {})
    yield from (type(hook).__name__ for hook in hooks.values() if hook._is_stateful)

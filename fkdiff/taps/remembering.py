"""Networks that keep something of a call for the next one, where rows lose their particles."""

from collections.abc import Iterator

import torch

from fkdiff.taps.coefficients import TapError

__all__ = ["check_forgetful"]


def check_forgetful(name: str, network: torch.nn.Module) -> None:
    """Refuse a network that answers from what it kept of earlier calls.

    Feature caches hold activations of the rows that they saw last. A resampling puts other
    particles in those rows, and a micro-batch shows other rows altogether.

    Arguments:
        name: Where the pipeline holds it.
        network: The network, also one that `torch.compile` wraps.

    Raises:
        TapError: With what keeps them and the remedy.
    """
    whole = (network, getattr(network, "_orig_mod", network))
    for path, module in network.named_modules():
        kept = next(_stateful(module), None)
        if kept is not None:
            raise TapError(
                f"{name} has a cache ({kept}) that keeps activations from step to step, which "
                f"can't follow resampled particles; call pipe.{name}.disable_cache() first"
            )
        if not any(module is part for part in whole) and _replaced(module):
            raise TapError(
                f"forward of {name}.{path} is replaced, as DeepCache and its like do to answer "
                f"from earlier steps, which can't follow resampled particles; take it off first "
                f"(DeepCache: helper.disable()), or wrap pipe.{name}.forward alone"
            )


def _stateful(module: torch.nn.Module) -> Iterator[str]:
    """Names of diffusers' hooks on a module that keep a state."""
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    yield from (type(hook).__name__ for hook in hooks.values() if hook._is_stateful)


def _replaced(module: torch.nn.Module) -> bool:
    """Whether someone but diffusers' and accelerate's hooks gave a module another forward."""
    hooked = hasattr(module, "_diffusers_hook") or hasattr(module, "_hf_hook")
    return "forward" in vars(module) and not hooked

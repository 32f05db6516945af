"""LoRA adapters of one network, switched by peft's own methods and put back as they were."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fkdiff.taps.coefficients import TapError

__all__ = ["Adapters", "adapter_layers", "loaded_adapters"]


def adapter_layers(network: nn.Module) -> list[Any]:
    """Layers that hold adapters; none where peft was never imported."""
    peft = sys.modules.get("peft.tuners.tuners_utils")
    if peft is None:
        return []
    return [m for m in network.modules() if isinstance(m, peft.BaseTunerLayer)]


def loaded_adapters(network: nn.Module) -> set[str]:
    """Names of the adapters that a network holds, switched on or not."""
    return {name for layer in adapter_layers(network) for name in _loaded(layer)}


class Adapters:
    """Switches a network between its base and its adapters; layers are looked up once.

    The base is what the user has switched on, without the adapters of `names`.

    Arguments:
        network: A network with the adapters loaded.
        names: Adapters that the run switches.

    Raises:
        TapError: If an adapter isn't loaded, or is merged into the weights.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.layers = adapter_layers(network)
        loaded = sorted(loaded_adapters(network))
        for name in names:
            if name not in loaded:
                raise TapError(
                    f"tuned must name a loaded adapter, got {name!r}; loaded: "
                    f"{', '.join(loaded) or 'none'}; load it: "
                    f"pipe.load_lora_weights(folder, adapter_name={name!r})"
                )
        if any(layer.merged for layer in self.layers):
            raise TapError(
                "adapters must not be merged into the weights, where they can't be switched; "
                "call pipe.unfuse_lora() first"
            )
        self._before = [_state(layer) for layer in self.layers]
        first = self.layers[0] if self.layers else None
        on = [] if first is None or first.disable_adapters else list(first.active_adapters)
        self.usual: tuple[str, ...] = tuple(on)
        self.base: tuple[str, ...] = tuple(name for name in on if name not in names)
        self._now = self.usual

    def switch(self, names: Sequence[str]) -> None:
        """Switch on these adapters and no others; none of them is the bare network."""
        if tuple(names) == self._now:
            return
        for layer in self.layers:
            if names:
                layer.set_adapter(list(names))
            layer.enable_adapters(bool(names))
        self._now = tuple(names)

    def scale(self, weights: Mapping[str, float]) -> None:
        """Scale the updates of adapters by weights, on top of the user's own scales."""
        for layer, (*_, scaling) in zip(self.layers, self._before, strict=True):
            for name, weight in weights.items():
                if name in scaling:
                    layer.scaling[name] = weight * scaling[name]

    def restore(self) -> None:
        """Put back what was on, its scales, and which parameters have gradients."""
        for layer, (active, disabled, gradients, scaling) in zip(
            self.layers, self._before, strict=True
        ):
            layer.set_adapter(active)
            layer.enable_adapters(not disabled)
            for parameter, wanted in gradients:
                parameter.requires_grad_(wanted)
            layer.scaling.update(scaling)
        self._now = self.usual


def _loaded(layer: Any) -> set[str]:
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}


def _state(
    layer: Any,
) -> tuple[list[str], bool, list[tuple[nn.Parameter, bool]], dict[str, float]]:
    gradients = [(parameter, parameter.requires_grad) for parameter in layer.parameters()]
    return list(layer.active_adapters), layer.disable_adapters, gradients, dict(layer.scaling)

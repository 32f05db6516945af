"""Where a pool's predictions come from beside the pipeline's network, made ready for a run."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fkdiff.taps.adapters import Adapters, adapter_layers, loaded_adapters
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.capture import captured, with_prompt, with_state
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.compatible import check_network, check_pipeline
from fkdiff.taps.denoiser import networks
from fkdiff.terms.pool import Key, Source, key_of, label
from fkdiff.terms.products import Product
from fkdiff.terms.rl_guidance import RLGuidance
from fkdiff.terms.term import Term

__all__ = ["Sources", "is_function"]


def is_function(source: Source) -> bool:
    """Whether a source is called with (x, alpha, sigma), and not as a network is."""
    return not isinstance(source, str | nn.Module) and not _is_pipeline(source)


def _is_pipeline(source: Source) -> bool:
    return hasattr(source, "scheduler") and hasattr(source, "components")


@dataclass
class Sources:
    """Adapters, networks, pipelines and prompts that a run's pool terms name.

    Arguments:
        pipe: The pipeline.
        terms: The run's terms.
        expanded: Arguments of the call.
        starts: Each row's generator as it was before the run.
        adapters: Those of each network of the pipeline that the run switches, while it lasts.
    """

    pipe: Any
    terms: Sequence[Term]
    expanded: Expanded
    starts: Sequence[torch.Generator]
    adapters: dict[str, Adapters] = field(default_factory=dict)
    _captured: dict[Key, list[tuple[str, inspect.BoundArguments]]] = field(default_factory=dict)

    @property
    def tuned(self) -> RLGuidance | None:
        """The term that mixes tuned experts with the base."""
        return next((term for term in self.terms if isinstance(term, RLGuidance)), None)

    @property
    def products(self) -> list[Product]:
        """The terms that multiply the pool."""
        return [term for term in self.terms if isinstance(term, Product)]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Prepare adapters and conditions while the block lasts; refuse what can't be had.

        Raises:
            TapError: With the expert, the rule and the remedy.
        """
        tuned = [] if self.tuned is None else list(self.tuned.sources)
        for source in tuned:
            if is_function(source):
                raise TapError(
                    f"tuned must be a loaded adapter, a network or a pipeline here, got "
                    f"{label(source)}; multiply by a function: Product(function, b)"
                )
        others = [product.other for product in self.products]
        for source in others:
            if isinstance(source, str):
                if source in [name for name in tuned if isinstance(name, str)]:
                    raise TapError(
                        f"a prompt and an adapter of one name, {source!r}, can't be told apart; "
                        f"write the prompt otherwise"
                    )
                arguments = with_prompt(self.pipe, self.expanded.arguments, source)
                self._captured[key_of(source)] = captured(self.pipe, arguments, self.starts)
        for source in (*tuned, *others):
            self._check(source)
        names = [source for source in tuned if isinstance(source, str)]
        if names:
            self._open_adapters(names)
        try:
            yield
        finally:
            for adapters in self.adapters.values():
                adapters.restore()

    def _check(self, source: Source) -> None:
        if isinstance(source, nn.Module):
            for network in networks(self.pipe).values():
                check_network(network, source)
        elif _is_pipeline(source):
            check_pipeline(self.pipe, source)
            self._captured[key_of(source)] = captured(source, self.expanded.arguments, self.starts)

    def _open_adapters(self, names: list[str]) -> None:
        mine = networks(self.pipe)
        for part, module in vars(self.pipe).items():
            if part.startswith("text_encoder") and isinstance(module, nn.Module):
                for name in loaded_adapters(module) & set(names):
                    raise TapError(
                        f"tuned must change the denoiser alone, but {name!r} also changes {part}, "
                        f"whose output both experts share; give the tuned pipeline instead"
                    )
        held = {name: net for name, net in mine.items() if adapter_layers(net)}
        for name, network in (held or mine).items():
            self.adapters[name] = Adapters(network, names)

    def elsewhere(
        self, source: Source, name: str, place: int, bound: inspect.BoundArguments
    ) -> tuple[inspect.BoundArguments, nn.Module | None]:
        """Arguments and network of a source that isn't an adapter; None for the pipeline's own.

        Arguments:
            source: The source.
            name: Where a pipeline holds the network that is called.
            place: Which of a step's calls it is.
            bound: What the pipeline calls its network with.

        Raises:
            TapError: If the source makes fewer calls a step.
        """
        network = source if isinstance(source, nn.Module) else None
        if _is_pipeline(source):
            network = networks(source)[name]
        if key_of(source) not in self._captured:
            return bound, network
        calls = self._captured[key_of(source)]
        if place >= len(calls):
            raise TapError(
                f"{label(source)} makes {len(calls)} network calls a step, the run makes more; "
                f"use the same guidance for both"
            )
        return with_state(calls[place][1], bound), network

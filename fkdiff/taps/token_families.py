"""Which of diffusers' pipelines draw tokens, and what taps them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fkdiff.taps.block_tokens import LLaDA2Tap
from fkdiff.taps.canvas_tokens import CanvasTap
from fkdiff.taps.tokens import TokenTap

__all__ = ["draws_tokens", "token_tap"]

_TAPS: Mapping[str, type[TokenTap]] = MappingProxyType(
    {"LLaDA2Pipeline": LLaDA2Tap, "DiffusionGemmaPipeline": CanvasTap}
)


def draws_tokens(pipe: Any) -> bool:
    """Whether the pipeline is one of those that this module taps."""
    return any(base.__name__ in _TAPS for base in type(pipe).__mro__)


def token_tap(pipe: Any, **settings: Any) -> "TokenTap":
    """The tap for the pipeline; `settings` are those of `TokenTap`."""
    name = next(base.__name__ for base in type(pipe).__mro__ if base.__name__ in _TAPS)
    return _TAPS[name](pipe, **settings)

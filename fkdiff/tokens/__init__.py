"""Text and token diffusion: particles of masked and uniform processes, masked language models.

Names are loaded when they are first used: the command line lists them without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.tokens.antibody import antibody_pipeline
    from fkdiff.tokens.pipeline import MaskedDiffusionPipeline
    from fkdiff.tokens.sampling import sample_tokens

_HOMES = {
    "MaskedDiffusionPipeline": "pipeline",
    "antibody_pipeline": "antibody",
    "sample_tokens": "sampling",
}

__all__ = ["MaskedDiffusionPipeline", "antibody_pipeline", "sample_tokens"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fkdiff.tokens.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fkdiff.tokens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

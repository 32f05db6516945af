"""fkdiff steers diffusion and flow models at inference time, as one weighted cloud.

Names are loaded when they are first used: `import fkdiff` imports neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fkdiff._version import __version__

if TYPE_CHECKING:
    from fkdiff.processes import Grid, MaskedPath, UniformPath
    from fkdiff.result import Result
    from fkdiff.rgba import Cutout, Mask
    from fkdiff.sampling import sample
    from fkdiff.sequences import (
        GumbelFlowPipeline,
        GumbelFlowScheduler,
        SimplexDenoiser,
        StraightThrough,
    )
    from fkdiff.smc import Resample
    from fkdiff.steering import Steered, steer
    from fkdiff.terms import (
        Anneal,
        Correct,
        DiscreteCorrect,
        Product,
        RLGuidance,
        Tilt,
        as_reward,
        minimum,
    )
    from fkdiff.tokens import MaskedDiffusionPipeline, sample_tokens

__all__ = [
    "Anneal",
    "Correct",
    "Cutout",
    "DiscreteCorrect",
    "Grid",
    "GumbelFlowPipeline",
    "GumbelFlowScheduler",
    "Mask",
    "MaskedDiffusionPipeline",
    "MaskedPath",
    "Product",
    "RLGuidance",
    "Resample",
    "Result",
    "SimplexDenoiser",
    "Steered",
    "StraightThrough",
    "Tilt",
    "UniformPath",
    "__version__",
    "as_reward",
    "minimum",
    "sample",
    "sample_tokens",
    "steer",
]

_HOMES = {
    "Anneal": "fkdiff.terms",
    "Correct": "fkdiff.terms",
    "Cutout": "fkdiff.rgba",
    "DiscreteCorrect": "fkdiff.terms",
    "Grid": "fkdiff.processes",
    "GumbelFlowPipeline": "fkdiff.sequences",
    "GumbelFlowScheduler": "fkdiff.sequences",
    "Mask": "fkdiff.rgba",
    "MaskedDiffusionPipeline": "fkdiff.tokens",
    "MaskedPath": "fkdiff.processes",
    "Product": "fkdiff.terms",
    "RLGuidance": "fkdiff.terms",
    "Resample": "fkdiff.smc",
    "Result": "fkdiff.result",
    "SimplexDenoiser": "fkdiff.sequences",
    "Steered": "fkdiff.steering",
    "StraightThrough": "fkdiff.sequences",
    "Tilt": "fkdiff.terms",
    "UniformPath": "fkdiff.processes",
    "as_reward": "fkdiff.terms",
    "minimum": "fkdiff.terms",
    "sample": "fkdiff.sampling",
    "sample_tokens": "fkdiff.tokens",
    "steer": "fkdiff.steering",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fkdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""fkdiff steers diffusion and flow models at inference time, as one weighted cloud.

Names are loaded when they are first used: `import fkdiff` imports neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fkdiff._version import __version__

if TYPE_CHECKING:
    from fkdiff.processes import Grid
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
    from fkdiff.terms import Anneal, Correct, Product, RLGuidance, Tilt, as_reward, minimum

__all__ = [
    "Anneal",
    "Correct",
    "Cutout",
    "Grid",
    "GumbelFlowPipeline",
    "GumbelFlowScheduler",
    "Mask",
    "Product",
    "RLGuidance",
    "Resample",
    "Result",
    "SimplexDenoiser",
    "Steered",
    "StraightThrough",
    "Tilt",
    "__version__",
    "as_reward",
    "minimum",
    "sample",
    "steer",
]

_HOMES = {
    "Anneal": "fkdiff.terms",
    "Correct": "fkdiff.terms",
    "Cutout": "fkdiff.rgba",
    "Grid": "fkdiff.processes",
    "GumbelFlowPipeline": "fkdiff.sequences",
    "GumbelFlowScheduler": "fkdiff.sequences",
    "Mask": "fkdiff.rgba",
    "Product": "fkdiff.terms",
    "RLGuidance": "fkdiff.terms",
    "Resample": "fkdiff.smc",
    "Result": "fkdiff.result",
    "SimplexDenoiser": "fkdiff.sequences",
    "Steered": "fkdiff.steering",
    "StraightThrough": "fkdiff.sequences",
    "Tilt": "fkdiff.terms",
    "as_reward": "fkdiff.terms",
    "minimum": "fkdiff.terms",
    "sample": "fkdiff.sampling",
    "steer": "fkdiff.steering",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fkdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Thin diffusers pipelines for `custom_pipeline` import; names are loaded when first used."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if __name__ != "fkdiff.pipelines":  # a second copy of every class would break isinstance
    raise ImportError("use `import fkdiff.pipelines`, not `import pipelines`")

if TYPE_CHECKING:
    from fkdiff.pipelines.alfie_pixart_sigma import AlfiePixArtSigmaPipeline
    from fkdiff.pipelines.alfie_stable_diffusion import AlfieStableDiffusionPipeline
    from fkdiff.pipelines.alfie_stable_diffusion_3 import AlfieStableDiffusion3Pipeline
    from fkdiff.pipelines.alfie_stable_diffusion_xl import AlfieStableDiffusionXLPipeline
    from fkdiff.pipelines.fk_dit import FKDiTPipeline
    from fkdiff.pipelines.fk_flux import FKFluxPipeline
    from fkdiff.pipelines.fk_pixart_sigma import FKPixArtSigmaPipeline
    from fkdiff.pipelines.fk_sana import FKSanaPipeline
    from fkdiff.pipelines.fk_stable_diffusion import FKStableDiffusionPipeline
    from fkdiff.pipelines.fk_stable_diffusion_3 import FKStableDiffusion3Pipeline
    from fkdiff.pipelines.fk_stable_diffusion_xl import FKStableDiffusionXLPipeline
    from fkdiff.pipelines.gumbel_flow import GumbelFlowPipeline
    from fkdiff.pipelines.masked_diffusion import MaskedDiffusionPipeline
    from fkdiff.pipelines.rlg_stable_diffusion import RLGStableDiffusionPipeline
    from fkdiff.pipelines.rlg_stable_diffusion_3 import RLGStableDiffusion3Pipeline
    from fkdiff.pipelines.rlg_stable_diffusion_xl import RLGStableDiffusionXLPipeline

__all__ = [
    "AlfiePixArtSigmaPipeline",
    "AlfieStableDiffusion3Pipeline",
    "AlfieStableDiffusionPipeline",
    "AlfieStableDiffusionXLPipeline",
    "FKDiTPipeline",
    "FKFluxPipeline",
    "FKPixArtSigmaPipeline",
    "FKSanaPipeline",
    "FKStableDiffusion3Pipeline",
    "FKStableDiffusionPipeline",
    "FKStableDiffusionXLPipeline",
    "GumbelFlowPipeline",
    "MaskedDiffusionPipeline",
    "RLGStableDiffusion3Pipeline",
    "RLGStableDiffusionPipeline",
    "RLGStableDiffusionXLPipeline",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # in the file of its name: FKDiTPipeline in fk_dit.py
        letters = name.removesuffix("Pipeline").lower()
        files = [module.name for module in iter_modules(__path__)]
        (file,) = (file for file in files if file.replace("_", "") == letters)
        return getattr(import_module(f"fkdiff.pipelines.{file}"), name)
    raise AttributeError(f"module 'fkdiff.pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

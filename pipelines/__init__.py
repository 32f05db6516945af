"""Thin diffusers pipelines for `custom_pipeline` import; names are loaded when first used."""

from importlib import import_module
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

_HOMES = {
    "AlfiePixArtSigmaPipeline": "alfie_pixart_sigma",
    "AlfieStableDiffusion3Pipeline": "alfie_stable_diffusion_3",
    "AlfieStableDiffusionPipeline": "alfie_stable_diffusion",
    "AlfieStableDiffusionXLPipeline": "alfie_stable_diffusion_xl",
    "FKDiTPipeline": "fk_dit",
    "FKFluxPipeline": "fk_flux",
    "FKPixArtSigmaPipeline": "fk_pixart_sigma",
    "FKSanaPipeline": "fk_sana",
    "FKStableDiffusion3Pipeline": "fk_stable_diffusion_3",
    "FKStableDiffusionPipeline": "fk_stable_diffusion",
    "FKStableDiffusionXLPipeline": "fk_stable_diffusion_xl",
    "GumbelFlowPipeline": "gumbel_flow",
    "MaskedDiffusionPipeline": "masked_diffusion",
    "RLGStableDiffusion3Pipeline": "rlg_stable_diffusion_3",
    "RLGStableDiffusionPipeline": "rlg_stable_diffusion",
    "RLGStableDiffusionXLPipeline": "rlg_stable_diffusion_xl",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fkdiff.pipelines.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fkdiff.pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

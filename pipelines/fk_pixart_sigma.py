"""FK steering for `PixArtSigmaPipeline`, for `custom_pipeline` import."""

from diffusers import PixArtSigmaPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS")
class FKPixArtSigmaPipeline(PixArtSigmaPipeline):
    """PixArtSigmaPipeline whose call also takes `terms`; see `fkdiff.steer`."""

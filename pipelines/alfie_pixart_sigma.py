"""Transparent pictures by `PixArtSigmaPipeline`, for `custom_pipeline` import."""

from diffusers import PixArtSigmaPipeline

from fkdiff.pipelines.steerable import alfie_call, steerable


@steerable(alfie_call, "PixArt-alpha/PixArt-Sigma-XL-2-512-MS")
class AlfiePixArtSigmaPipeline(PixArtSigmaPipeline):
    """PixArtSigmaPipeline whose pictures are cut out; see `fkdiff.Cutout`."""

"""Transparent pictures by `StableDiffusionXLPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionXLPipeline

from fkdiff.pipelines.steerable import alfie_call, steerable


@steerable(alfie_call, "stabilityai/stable-diffusion-xl-base-1.0")
class AlfieStableDiffusionXLPipeline(StableDiffusionXLPipeline):
    """StableDiffusionXLPipeline whose pictures are cut out; see `fkdiff.Cutout`."""

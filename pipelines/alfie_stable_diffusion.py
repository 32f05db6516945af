"""Transparent pictures by `StableDiffusionPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionPipeline

from fkdiff.pipelines.steerable import alfie_call, steerable


@steerable(alfie_call, "stable-diffusion-v1-5/stable-diffusion-v1-5")
class AlfieStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline whose pictures are cut out; see `fkdiff.Cutout`."""

"""FK steering for `StableDiffusionXLPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionXLPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "stabilityai/stable-diffusion-xl-base-1.0")
class FKStableDiffusionXLPipeline(StableDiffusionXLPipeline):
    """StableDiffusionXLPipeline whose call also takes `terms`; see `fkdiff.steer`."""

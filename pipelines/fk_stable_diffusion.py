"""FK steering for `StableDiffusionPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "stable-diffusion-v1-5/stable-diffusion-v1-5")
class FKStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline whose call also takes `terms`; see `fkdiff.steer`."""

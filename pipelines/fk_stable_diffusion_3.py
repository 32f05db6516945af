"""FK steering for `StableDiffusion3Pipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusion3Pipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "stabilityai/stable-diffusion-3.5-medium")
class FKStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """StableDiffusion3Pipeline whose call also takes `terms`; see `fkdiff.steer`."""

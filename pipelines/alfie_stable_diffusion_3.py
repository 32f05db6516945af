"""Transparent pictures by `StableDiffusion3Pipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusion3Pipeline

from fkdiff.pipelines.steerable import alfie_call, steerable


@steerable(alfie_call, "stabilityai/stable-diffusion-3.5-medium")
class AlfieStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """StableDiffusion3Pipeline whose pictures are cut out; see `fkdiff.Cutout`."""

"""RL guidance for `StableDiffusion3Pipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusion3Pipeline

from fkdiff.pipelines.steerable import rlg_call, steerable


@steerable(rlg_call, "stabilityai/stable-diffusion-3.5-medium")
class RLGStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """StableDiffusion3Pipeline whose call also takes `tuned` and `w`; see `fkdiff.RLGuidance`."""

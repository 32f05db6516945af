"""RL guidance for `StableDiffusionXLPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionXLPipeline

from fkdiff.pipelines.steerable import rlg_call, steerable


@steerable(rlg_call, "stabilityai/stable-diffusion-xl-base-1.0")
class RLGStableDiffusionXLPipeline(StableDiffusionXLPipeline):
    """StableDiffusionXLPipeline whose call also takes `tuned` and `w`; see `fkdiff.RLGuidance`."""

"""RL guidance for `StableDiffusionPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionPipeline

from fkdiff.pipelines.steerable import rlg_call, steerable


@steerable(rlg_call, "stable-diffusion-v1-5/stable-diffusion-v1-5")
class RLGStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline whose call also takes `tuned` and `w`; see `fkdiff.RLGuidance`."""

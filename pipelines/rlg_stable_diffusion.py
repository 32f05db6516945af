"""RL guidance for `StableDiffusionPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionPipeline

from fkdiff.pipelines.rl_guided import rl_guided

__all__ = ["RLGStableDiffusionPipeline"]


@rl_guided
class RLGStableDiffusionPipeline(StableDiffusionPipeline):
    """StableDiffusionPipeline whose call also takes `tuned` and `w`; see `fkdiff.RLGuidance`.

    Without `tuned` it is the stock pipeline. With it each prediction is base + w (tuned - base),
    where `tuned` is a loaded LoRA adapter, a network or a pipeline; w = 1 is the tuned model.

    References:
        | Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning
        | Guidance, arXiv 2508.21016

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                custom_pipeline="pipelines/rlg_stable_diffusion.py",
                trust_remote_code=True,
            )
            pipe.load_lora_weights("path/of/lora", adapter_name="tuned")
            out = pipe("a red cube", tuned="tuned", w=1.6)
    """

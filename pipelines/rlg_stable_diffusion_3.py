"""RL guidance for `StableDiffusion3Pipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusion3Pipeline

from fkdiff.pipelines.rl_guided import rl_guided

__all__ = ["RLGStableDiffusion3Pipeline"]


@rl_guided
class RLGStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """StableDiffusion3Pipeline whose call also takes `tuned` and `w`; see `fkdiff.RLGuidance`.

    Without `tuned` it is the stock pipeline. With it each prediction is base + w (tuned - base),
    where `tuned` is a loaded LoRA adapter, a network or a pipeline; w = 1 is the tuned model.

    References:
        | Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning
        | Guidance, arXiv 2508.21016

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "stabilityai/stable-diffusion-3.5-medium",
                custom_pipeline="pipelines/rlg_stable_diffusion_3.py",
                trust_remote_code=True,
            )
            pipe.load_lora_weights("path/of/lora", adapter_name="tuned")
            out = pipe("a red cube", tuned="tuned", w=1.6)
    """

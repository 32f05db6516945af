"""FK steering for `StableDiffusionXLPipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusionXLPipeline

from fkdiff.pipelines.steerable import steerable

__all__ = ["FKStableDiffusionXLPipeline"]


@steerable
class FKStableDiffusionXLPipeline(StableDiffusionXLPipeline):
    """StableDiffusionXLPipeline whose call also takes `terms`; see `fkdiff.steer`.

    Without terms it is the stock pipeline. With them it draws `particles` for each prompt,
    returns `num_images_per_prompt` of them, best first, and the whole cloud in `.steering`.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "stabilityai/stable-diffusion-xl-base-1.0",
                custom_pipeline="pipelines/fk_stable_diffusion_xl.py",
                trust_remote_code=True,
            )
            out = pipe("a red cube", terms=[Tilt(OpenCLIP(), scale=2)], particles=8)
    """

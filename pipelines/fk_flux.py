"""FK steering for `FluxPipeline`, for `custom_pipeline` import."""

from diffusers import FluxPipeline

from fkdiff.pipelines.steerable import steerable

__all__ = ["FKFluxPipeline"]


@steerable
class FKFluxPipeline(FluxPipeline):
    """FluxPipeline whose call also takes `terms`; see `fkdiff.steer`.

    Without terms it is the stock pipeline. With them it draws `particles` for each prompt,
    returns `num_images_per_prompt` of them, best first, and the whole cloud in `.steering`.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "black-forest-labs/FLUX.1-dev",
                custom_pipeline="pipelines/fk_flux.py",
                trust_remote_code=True,
            )
            out = pipe("a red cube", terms=[Tilt(OpenCLIP(), scale=2)], particles=8)
    """

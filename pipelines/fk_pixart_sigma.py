"""FK steering for `PixArtSigmaPipeline`, for `custom_pipeline` import."""

from diffusers import PixArtSigmaPipeline

from fkdiff.pipelines.steerable import steerable

__all__ = ["FKPixArtSigmaPipeline"]


@steerable
class FKPixArtSigmaPipeline(PixArtSigmaPipeline):
    """PixArtSigmaPipeline whose call also takes `terms`; see `fkdiff.steer`.

    Without terms it is the stock pipeline. With them it draws `particles` for each prompt,
    returns `num_images_per_prompt` of them, best first, and the whole cloud in `.steering`.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
                custom_pipeline="pipelines/fk_pixart_sigma.py",
                trust_remote_code=True,
            )
            out = pipe("a red cube", terms=[Tilt(OpenCLIP(), scale=2)], particles=8)
    """

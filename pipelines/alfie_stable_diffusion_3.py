"""Transparent pictures by `StableDiffusion3Pipeline`, for `custom_pipeline` import."""

from diffusers import StableDiffusion3Pipeline

from fkdiff.pipelines.transparent import transparent

__all__ = ["AlfieStableDiffusion3Pipeline"]


@transparent
class AlfieStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """StableDiffusion3Pipeline that draws a subject whole and cuts it out; see `fkdiff.Cutout`.

    Pictures come out with alpha, of the type that `output_type` names ("pil", "np" or "pt"). With
    `background=None` it is the stock pipeline.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "stabilityai/stable-diffusion-3.5-medium",
                custom_pipeline="pipelines/alfie_stable_diffusion_3.py",
                trust_remote_code=True,
            )
            pipe("a guitar").images[0].save("guitar.png")
    """

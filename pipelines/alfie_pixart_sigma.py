"""Transparent pictures by `PixArtSigmaPipeline`, for `custom_pipeline` import."""

from diffusers import PixArtSigmaPipeline

from fkdiff.pipelines.transparent import transparent

__all__ = ["AlfiePixArtSigmaPipeline"]


@transparent
class AlfiePixArtSigmaPipeline(PixArtSigmaPipeline):
    """PixArtSigmaPipeline that draws a subject whole and cuts it out; see `fkdiff.Cutout`.

    Pictures come out with alpha, of the type that `output_type` names ("pil", "np" or "pt"). With
    `background=None` it is the stock pipeline.

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "PixArt-alpha/PixArt-Sigma-XL-2-512-MS",
                custom_pipeline="pipelines/alfie_pixart_sigma.py",
                trust_remote_code=True,
            )
            pipe("a guitar").images[0].save("guitar.png")
    """

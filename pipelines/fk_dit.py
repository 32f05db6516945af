"""FK steering for `DiTPipeline`, for `custom_pipeline` import."""

from diffusers import DiTPipeline

from fkdiff.pipelines.steerable import steerable

__all__ = ["FKDiTPipeline"]


@steerable
class FKDiTPipeline(DiTPipeline):
    """DiTPipeline whose call also takes `terms`; see `fkdiff.steer`.

    Without terms it is the stock pipeline. With them it draws `particles` for each prompt,
    returns the best for each label and the whole weighted cloud in `.steering`.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848

    Example:
        .. code-block:: python

            pipe = DiffusionPipeline.from_pretrained(
                "facebook/DiT-XL-2-256",
                custom_pipeline="pipelines/fk_dit.py",
                trust_remote_code=True,
            )
            out = pipe([207], terms=[Tilt(OpenCLIP(), scale=2)], particles=8)
    """

"""FK steering for `DiTPipeline`, for `custom_pipeline` import."""

from diffusers import DiTPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "facebook/DiT-XL-2-256")
class FKDiTPipeline(DiTPipeline):
    """DiTPipeline whose call also takes `terms`; see `fkdiff.steer`."""

"""FK steering for `SanaPipeline`, for `custom_pipeline` import."""

from diffusers import SanaPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "Efficient-Large-Model/Sana_600M_1024px_diffusers")
class FKSanaPipeline(SanaPipeline):
    """SanaPipeline whose call also takes `terms`; see `fkdiff.steer`."""

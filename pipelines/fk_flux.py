"""FK steering for `FluxPipeline`, for `custom_pipeline` import."""

from diffusers import FluxPipeline

from fkdiff.pipelines.steerable import fk_call, steerable


@steerable(fk_call, "black-forest-labs/FLUX.1-dev")
class FKFluxPipeline(FluxPipeline):
    """FluxPipeline whose call also takes `terms`; see `fkdiff.steer`."""

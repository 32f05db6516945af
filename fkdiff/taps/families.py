r"""Facts about families of pipelines that their schedulers and configs don't tell."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from fkdiff.taps.coefficients import TapError

__all__ = ["PRECONDITIONED", "REFUSED", "check_family", "predictions"]

# Why a family can't be steered, with the place in diffusers 0.42.1.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        name: (
            f"steps each frame by a scheduler of its own, at another time than its neighbours "
            f"({file}); steer SkyReelsV2Pipeline instead"
        )
        for name, file in (
            (
                "SkyReelsV2DiffusionForcingPipeline",
                "pipelines/skyreels_v2/pipeline_skyreels_v2_diffusion_forcing.py:915",
            ),
            (
                "SkyReelsV2DiffusionForcingImageToVideoPipeline",
                "pipelines/skyreels_v2/pipeline_skyreels_v2_diffusion_forcing_i2v.py:994",
            ),
            (
                "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
                "pipelines/skyreels_v2/pipeline_skyreels_v2_diffusion_forcing_v2v.py:1004",
            ),
        )
    }
    | {
        name: (
            f"calls scheduler.step twice at one noise level, first for the estimates of both "
            f"halves at once ({file}); steer Cosmos2TextToImagePipeline instead"
        )
        for name, file in (
            ("CosmosTextToWorldPipeline", "pipelines/cosmos/pipeline_cosmos_text2world.py:605"),
            ("CosmosVideoToWorldPipeline", "pipelines/cosmos/pipeline_cosmos_video2world.py:764"),
        )
    }
)


def _cosmos2(output: Tensor, x: Tensor, sigma: float) -> Tensor:
    r"""The network sees $x / (1 + \sigma)$ and predicts noise minus data at that scale."""
    return (x + output) / (1 + sigma)


# (network output, state, sigma) to what the scheduler takes, where a pipeline maps one to the
# other before it steps.
PRECONDITIONED: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = MappingProxyType(
    {"Cosmos2TextToImagePipeline": _cosmos2}
)


def check_family(pipe: Any) -> None:
    """Refuse a pipeline that has no loop to watch, or is known not to work.

    Raises:
        TapError: With the reason, and for known families the place in diffusers.
    """
    if not hasattr(pipe, "scheduler"):
        raise TapError(f"{type(pipe).__name__} has no scheduler; it can't be steered")
    for base in type(pipe).__mro__:
        if base.__name__ in REFUSED:
            raise TapError(f"{base.__name__} {REFUSED[base.__name__]}")


def predictions(pipe: Any, outputs: list[Tensor], x: Tensor, sigma: float) -> list[Tensor]:
    """Network outputs as the scheduler takes them, before guidance mixes them.

    Arguments:
        pipe: The pipeline.
        outputs: What its networks returned during a step, (N, *) each.
        x: State, shape (N, *).
        sigma: Noise coefficient.
    """
    for base in type(pipe).__mro__:
        if base.__name__ in PRECONDITIONED:
            return [PRECONDITIONED[base.__name__](output, x, sigma) for output in outputs]
    return outputs

"""Whether experts and correctors can be had on a pipeline; refused with a remedy."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fkdiff.taps.coefficients import TapError, prediction_type
from fkdiff.taps.denoiser import networks
from fkdiff.taps.guidance import Guidance

__all__ = ["check_correctable", "check_guided", "check_network", "check_pipeline"]

_SHAPES = (
    "in_channels",
    "out_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "guidance_embeds",
)
# Steps that jump to an estimate and noise it again: there is no drift to correct.
_JUMPING = (
    "LCMScheduler",
    "TCDScheduler",
    "CMStochasticIterativeScheduler",
    "FlowMatchLCMScheduler",
    "SCMScheduler",
)


def check_network(ours: nn.Module, other: nn.Module) -> None:
    """Refuse a network that can't stand in for the pipeline's own.

    Raises:
        TapError: If class, channels or embedded guidance differ.
    """
    mine, theirs = _bare(ours), _bare(other)
    if type(mine).__name__ != type(theirs).__name__:
        raise TapError(
            f"experts must have one architecture, got {type(theirs).__name__} beside "
            f"{type(mine).__name__}; give a network of the pipeline's own class"
        )
    for name in _SHAPES:
        here, there = (_setting(network, name) for network in (mine, theirs))
        if here != there:
            what = "embedded guidance" if name == "guidance_embeds" else name
            raise TapError(
                f"experts must have the same {what}, got {there} beside {here}; "
                f"their predictions can't be mixed"
            )


def check_pipeline(ours: Any, other: Any) -> None:
    """Refuse a pipeline whose predictions mean something else.

    Raises:
        TapError: If networks, prediction type or noise levels differ.
    """
    theirs = networks(other)
    for name, network in networks(ours).items():
        if name not in theirs:
            raise TapError(
                f"experts must have one architecture, got {type(other).__name__} without {name}"
            )
        check_network(network, theirs[name])
    here, there = prediction_type(ours.scheduler), prediction_type(other.scheduler)
    if here != there:
        raise TapError(
            f"experts must have the same prediction type, got {there} beside {here}; "
            f"their predictions can't be mixed"
        )
    mine, others = (getattr(p.scheduler, "alphas_cumprod", None) for p in (ours, other))
    same = mine is None or others is None or (len(mine) == len(others))
    if not same or (mine is not None and others is not None and not torch.allclose(mine, others)):
        raise TapError("experts must have the same noise levels, got another beta schedule")


def check_correctable(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse a call whose moves no corrector can follow.

    Raises:
        TapError: With the rule and the remedy.
    """
    scheduler = pipe.scheduler
    name = type(scheduler).__name__
    other = "DDIMScheduler" if hasattr(scheduler, "alphas_cumprod") else "a plain Euler scheduler"
    if name in _JUMPING or scheduler.config.get("stochastic_sampling"):
        how = "stochastic_sampling" if name not in _JUMPING else "consistency sampling"
        raise TapError(
            f"Correct() can't follow {name}: {how} jumps to an estimate and noises it again, "
            f"which is no discretised SDE; set {other}, or leave out Correct()"
        )
    if hasattr(scheduler, "sigmas_interpol"):
        raise TapError(
            f"Correct() can't follow {name}, which evaluates between its noise levels; set "
            f"pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)"
        )
    if arguments.get("guidance_rescale"):
        raise TapError(
            f"guidance_rescale must be 0 with Correct(), got {arguments['guidance_rescale']}: a "
            f"rescaled prediction is no score of a product; leave it out"
        )


def check_guided(pipe: Any, guidance: Guidance | None, pool: bool) -> None:
    """Refuse to correct a pool of one, and a guidance that is distilled into the network.

    Arguments:
        pipe: The pipeline.
        guidance: How it guides, as found in its first step.
        pool: Whether a term adds experts or powers.

    Raises:
        TapError: With the remedy.
    """
    if guidance is not None and guidance.halves > 1:
        return
    embedded = any(_setting(net, "guidance_embeds") for net in networks(pipe).values())
    if embedded or not pool:
        told = "its guidance is distilled into the network, and" if embedded else "with it"
        raise TapError(
            f"Correct() needs an unconditional branch: {type(pipe).__name__} makes one prediction "
            f"a particle, {told} there is no product to correct; raise guidance_scale above 1 "
            f"(Flux: true_cfg_scale, with negative_prompt), or leave out Correct()"
        )


def _bare(network: nn.Module) -> nn.Module:
    """Without the wrappers of torch.compile and peft."""
    network = getattr(network, "_orig_mod", network)
    unwrapped = getattr(network, "get_base_model", None)
    return unwrapped() if callable(unwrapped) else network  # pyright: ignore[reportReturnType]


def _setting(network: nn.Module, name: str) -> Any:
    config = getattr(network, "config", None)
    value = None if config is None else getattr(config, name, None)
    return tuple(value) if isinstance(value, list) else value

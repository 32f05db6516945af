"""The same pool without a pipeline: its network as denoisers for `sample`, on the same grid."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff import Grid

__all__ = ["Conditions", "conditions", "denoiser", "grid_of", "network_of", "nudged", "swapped"]

Conditions = Mapping[str, Any]


def network_of(pipe: Any) -> nn.Module:
    return getattr(pipe, "unet", None) or pipe.transformer


def nudged(network: nn.Module, seed: int = 9, size: float = 0.05) -> nn.Module:
    """A copy with other weights: what tuning might have made of a network."""
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for p in other.parameters():
        p += size * torch.randn(p.shape, generator=generator)
    return other


class swapped:  # noqa: N801  # a context manager, read as a verb
    """Let a pipeline hold another network while the block lasts."""

    def __init__(self, pipe: Any, network: nn.Module) -> None:
        self.pipe, self.network = pipe, network
        self.name = "unet" if getattr(pipe, "unet", None) is not None else "transformer"

    def __enter__(self) -> None:
        self.own = getattr(self.pipe, self.name)
        setattr(self.pipe, self.name, self.network)

    def __exit__(self, *_: object) -> None:
        setattr(self.pipe, self.name, self.own)


def conditions(name: str, pipe: Any, prompt: str, rows: int) -> dict[str, Conditions]:
    """Text conditions of "cond" and "uncond", as the pipeline's own encoder makes them."""
    if name.startswith("sd3"):
        kept = pipe.encode_prompt(prompt, prompt, prompt, max_sequence_length=8)
        embeds, negative, pooled, negative_pooled = kept
        halves = {"cond": (embeds, pooled), "uncond": (negative, negative_pooled)}
        return {
            branch: {
                "encoder_hidden_states": e.repeat(rows, 1, 1),
                "pooled_projections": p.repeat(rows, 1),
            }
            for branch, (e, p) in halves.items()
        }
    embeds, negative = pipe.encode_prompt(prompt, "cpu", rows, True)
    return {
        "cond": {"encoder_hidden_states": embeds},
        "uncond": {"encoder_hidden_states": negative},
    }


def grid_of(scheduler: Any, steps: int) -> tuple[Grid, dict[tuple[float, float], Tensor]]:
    """The noise levels of the scheduler as a grid, and the time of each."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    if type(scheduler).__name__ == "EulerDiscreteScheduler":
        levels = [(1.0, float(sigma)) for sigma in scheduler.sigmas[:-1]]
        end, kind = (1.0, 0.0), "epsilon"
    elif hasattr(scheduler, "alphas_cumprod"):
        table = scheduler.alphas_cumprod.double()
        levels = [
            (float(table[t].sqrt()), float((1 - table[t]).sqrt())) for t in scheduler.timesteps
        ]
        final = float(scheduler.final_alpha_cumprod)
        kind = scheduler.config.prediction_type
        end = (final**0.5, (1 - final) ** 0.5)
    else:
        levels = [(1 - float(s), float(s)) for s in scheduler.sigmas[:-1]]
        end, kind = (1.0, 0.0), "flow_prediction"
    return Grid((*levels, end), kind), dict(zip(levels, scheduler.timesteps, strict=True))


@dataclass
class denoiser:  # noqa: N801  # made and used as a function
    """One branch of a network as a function (x, alpha, sigma)."""

    network: nn.Module
    given: Conditions
    times: Mapping[tuple[float, float], Tensor]

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        key = min(self.times, key=lambda k: abs(k[0] - alpha) + abs(k[1] - sigma))
        t = self.times[key]
        time = t if hasattr(self.network, "conv_in") else t.expand(len(x))
        state = "sample" if hasattr(self.network, "conv_in") else "hidden_states"
        x = x / (sigma**2 + 1) ** 0.5 if alpha == 1 else x  # networks know k-diffusion's states so
        return self.network(**{state: x, "timestep": time, **self.given}, return_dict=False)[0]

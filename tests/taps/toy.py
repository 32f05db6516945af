"""A toy pipeline whose loop is diffusers' usual one and whose network acts on each number alone.

Rows can't mix in such a network and their rounding can't depend on the batch, so a permuted run
must equal its lineages bit for bit, whatever the scheduler.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler, SCMScheduler
from torch import Tensor, nn
from tqdm import tqdm

from fkdiff.processes import randn_rows
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import PipelineTap
from fkdiff.taps.arguments import Expanded
from fkdiff.terms.cost import Cost
from fkdiff.terms.step import Step

__all__ = ["SHAPE", "Script", "ToyPipeline", "tap"]

SHAPE = (2, 4, 4)  # a multiple of the vector width: no row is computed by a loop's scalar tail


class ToyNetwork(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor]:
        """A curved function of the state that changes with time, so that history matters."""
        return (torch.tanh(1.3 * sample + torch.sin(torch.as_tensor(timestep) / 100)) - 0.2,)


class ToyPipeline:
    def __init__(self, scheduler: Any, step: Mapping[str, Any] | None = None) -> None:
        self.scheduler, self.unet = scheduler, ToyNetwork()
        self.step = dict(step or {})

    def progress_bar(self, total: int) -> tqdm:
        return tqdm(total=total, disable=True)

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 6,
        generator: Sequence[torch.Generator] = (),
        latents: Tensor | None = None,
    ) -> SimpleNamespace:
        scheduler = self.scheduler
        sprint = isinstance(scheduler, SCMScheduler)  # as the SanaSprint pipeline calls it
        grid = {"intermediate_timesteps": None} if sprint else {}
        scheduler.set_timesteps(num_inference_steps, **grid)
        if latents is None:
            latents = randn_rows(torch.zeros(batch_size, *SHAPE), generator)
        x, old, before = latents * getattr(scheduler, "init_noise_sigma", 1.0), None, None
        with self.progress_bar(total=num_inference_steps) as bar:
            for t in scheduler.timesteps[:-1] if sprint else scheduler.timesteps:
                scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)(x, t)
                output = self.unet(scaled, t)[0]
                if isinstance(scheduler, CogVideoXDPMScheduler):
                    x, old = scheduler.step(output, old, t, before, x, return_dict=False)
                else:
                    x = scheduler.step(output, t, x, **self.step, return_dict=False)[0]
                before = t
                bar.update()
        return SimpleNamespace(images=x)


class Script:
    """An engine that resamples as told and keeps every step it saw.

    Arguments:
        particles: K, for one prompt.
        rows: Parent rows by transition.
        generators: Their streams follow the lineage, so that copies are told from their
            ancestors by nothing; leave them out and noise stays with the slots.
    """

    def __init__(
        self,
        particles: int,
        rows: Mapping[int, Sequence[int]] | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self.seed = 0
        self.log_w = torch.zeros(1, particles, dtype=torch.float64)
        self.steps: list[Step] = []
        self.rows, self.generators = dict(rows or {}), generators

    def may_resample(self, index: int, total: int) -> bool:
        return True

    def status(self) -> dict[str, str]:
        return {}

    def transition(self, step: Step) -> Tensor | None:
        self.steps.append(step)
        self.seen(step)
        if step.index not in self.rows:
            return None
        rows = self.rows[step.index]
        follow(self.generators, rows)
        return torch.tensor(rows)

    def seen(self, step: Step) -> None:
        """What a test wants to do with a step while the run waits."""


def follow(generators: Sequence[torch.Generator], rows: Sequence[int]) -> None:
    """Continue the stream of each slot's parent."""
    if generators:
        states = [generators[row].get_state() for row in rows]
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def tap(
    pipe: Any,
    script: Script,
    arguments: Mapping[str, Any],
    *,
    key: str | None = "batch_size",
    stochastic: bool | None = None,
    resamples: bool = False,
    micro_batch: int | None = None,
) -> PipelineTap:
    """The tap that `steer` would make, with a scripted engine; deterministic steps are kept."""
    particles = script.log_w.shape[1]
    return PipelineTap(
        pipe=pipe,
        expanded=Expanded(dict(arguments), ["a cat"], 1, key),
        particles=particles,
        generators=script.generators or slot_generators(7, 1, particles),
        engine=script,
        stochastic=stochastic,
        resamples=resamples,
        micro_batch=micro_batch,
        cost=Cost(),
    )

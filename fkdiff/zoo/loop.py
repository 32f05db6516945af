"""The one training loop of the recipes: seeded by step, so that a resumed run repeats exactly."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["Draws", "Fit", "Trainer"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """Settings of a run.

    Arguments:
        steps: How many there are.
        lr: Peak of the learning rate.
        warmup: Steps over which it rises.
        hold: Share of the run before the linear decay to zero begins.
        ema: Decay of the running average of the weights, 0 for none.
        weight_decay: Of AdamW.
        max_norm: The gradient is scaled down to this norm.
        seed: Of weights, scenes and noise.
        save_seconds: Time between checkpoints.
        device: Where the modules live; scenes are drawn on the CPU.
        bf16: Compute the loss in bfloat16 where autocast allows it; weights stay float32.
    """

    steps: int
    lr: float
    warmup: int = 100
    hold: float = 0.0
    ema: float = 0.0
    weight_decay: float = 0.01
    max_norm: float = 1.0
    seed: int = 0
    save_seconds: float = 120.0
    device: str = "cpu"
    bf16: bool = False

    def lr_at(self, step: int) -> float:
        """The learning rate of a step.

        >>> [Fit(steps=10, lr=1.0, warmup=2).lr_at(step) for step in (0, 2, 9)]
        [0.5, 0.8, 0.1]
        """
        left = (self.steps - step) / max(self.steps * (1 - self.hold), 1)
        return self.lr * min(1.0, (step + 1) / self.warmup, round(left, 12))


class Draws:
    """The random numbers of one step: a pure function of (seed, step, rank), nothing to save."""

    def __init__(self, seed: int, step: int, rank: int = 0) -> None:
        self.rng = np.random.default_rng([seed, step, rank])
        self.torch = torch.Generator().manual_seed(int(self.rng.integers(2**62)))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers of a shape, float32."""
        return torch.randn(shape, generator=self.torch)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of a shape, float32."""
        return torch.rand(shape, generator=self.torch)


class Trainer:
    """Trains modules on a loss and keeps its whole state in one safetensors file.

    In a process group (torchrun) every process draws its own batch and gradients are averaged;
    on a few cores that beats one process with as many threads.

    Arguments:
        modules: What to train; kept under their names in the file.
        loss: (step, draws) -> scalar loss of that step.
        fit: Settings.
        folder: Where `state.safetensors`, `settings.json` and `log.jsonl` go.
    """

    def __init__(
        self,
        modules: nn.ModuleDict,
        loss: Callable[[int, Draws], Tensor],
        fit: Fit,
        folder: Path,
    ) -> None:
        self.modules, self.loss, self.fit, self.folder = modules, loss, fit, folder
        modules.to(fit.device)
        self.step = 0
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.optimiser = torch.optim.AdamW(
            modules.parameters(), fit.lr, weight_decay=fit.weight_decay, fused=True
        )
        self.average = {
            name: value.detach().clone()
            for name, value in modules.named_parameters()
            if fit.ema > 0
        }
        self._names = [name for name, _ in modules.named_parameters()]

    @property
    def file(self) -> Path:
        """Where the state is kept."""
        return self.folder / "state.safetensors"

    def run(self, until: int | None = None) -> list[float]:
        """Trains up to a step (the last by default), saves, and returns the loss of each step."""
        losses: list[float] = []
        saved = time.monotonic()
        stop = self.fit.steps if until is None else until
        self.folder.mkdir(parents=True, exist_ok=True)
        bar = tqdm(
            total=self.fit.steps,
            initial=self.step,
            desc=self.folder.name,
            mininterval=5,
            disable=self.rank > 0,
        )
        with bar, (self.folder / "log.jsonl").open("a") as log:
            while self.step < stop:
                losses.append(self._update())
                bar.update()
                if self.step % 50 == 0 and self.rank == 0:
                    mean = sum(losses[-50:]) / len(losses[-50:])
                    bar.set_postfix(loss=f"{mean:.4f}")
                    log.write(json.dumps({"step": self.step, "loss": mean}) + "\n")
                    log.flush()
                if time.monotonic() - saved > self.fit.save_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return losses

    def _update(self) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.fit.lr_at(self.step)
        draws = Draws(self.fit.seed, self.step, self.rank)
        with torch.autocast(
            torch.device(self.fit.device).type, torch.bfloat16, enabled=self.fit.bf16
        ):
            loss = self.loss(self.step, draws)
        loss.backward()
        value = self._shared(float(loss.detach()))
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.fit.max_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self._track()
        if not np.isfinite(value):
            raise FloatingPointError(
                f"loss must be finite, got {value} at step {self.step}; lower the learning rate"
            )
        return value

    def _shared(self, loss: float) -> float:
        """Averages the gradients, and the loss, over the processes."""
        if not dist.is_initialized():
            return loss
        gradients = [p.grad for p in self.modules.parameters() if p.grad is not None]
        flat = torch.cat([torch.tensor([loss]), *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat[1:].split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return float(flat[0])

    @torch.no_grad()
    def _track(self) -> None:
        if self.fit.ema > 0:
            # The ramp keeps the random start out of the average of a short run.
            keep = min(self.fit.ema, (1 + self.step) / (10 + self.step))
            average = list(self.average.values())
            torch._foreach_lerp_(average, list(self.modules.parameters()), 1 - keep)

    def save(self) -> None:
        """Writes weights, their average and the optimiser's moments, replacing the old file."""
        if self.rank > 0:
            return
        tensors = {f"model/{key}": value for key, value in self.modules.state_dict().items()}
        tensors |= {f"ema/{key}": value for key, value in self.average.items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            for slot, value in slots.items():
                tensors[f"adam/{slot}/{self._names[index]}"] = value
        tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "settings.json").write_text(json.dumps(asdict(self.fit), indent=1))
        partial = self.file.with_suffix(".partial")
        save_file(tensors, partial, metadata={"step": str(self.step)})
        os.replace(partial, self.file)

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Starts from given weights, named as in `modules`, instead of random ones."""
        self.modules.load_state_dict(weights)
        for name, value in self.modules.named_parameters():
            if name in self.average:
                self.average[name].copy_(value.detach())

    def resume(self) -> None:
        """Takes up the saved state, if there is one."""
        if not self.file.exists():
            _log.warning("nothing to resume in %s; starting anew", self.folder)
            return
        parameters = dict(self.modules.named_parameters())
        state: dict[str, dict[str, Tensor]] = {}
        weights: dict[str, Tensor] = {}
        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
            for key in file.keys():  # noqa: SIM118 (not a dict)
                part, _, name = key.partition("/")
                if part == "model":
                    weights[name] = file.get_tensor(key)
                elif part == "ema":
                    self.average[name].copy_(file.get_tensor(key))
                else:
                    slot, _, name = name.partition("/")
                    state.setdefault(name, {})[slot] = file.get_tensor(key)
        self.modules.load_state_dict(weights)
        self._restore(parameters, state)

    def _restore(
        self, parameters: dict[str, nn.Parameter], state: dict[str, dict[str, Tensor]]
    ) -> None:
        for name, slots in state.items():
            parameter = parameters[name]
            self.optimiser.state[parameter] = {
                slot: value
                if slot == "step"
                else torch.empty_like(parameter, requires_grad=False).copy_(value)
                for slot, value in slots.items()
            }

    def averaged(self) -> dict[str, Tensor]:
        """The weights to ship: the running average where there is one."""
        return self.modules.state_dict() | self.average

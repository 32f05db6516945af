"""Training a flow on sequences: seeded by step, resumable, with a held-out loss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fkdiff.processes.simplex import GumbelPath
from fkdiff.sequences.alphabet import padded
from fkdiff.sequences.denoiser import SimplexDenoiser
from fkdiff.sequences.losses import LossKind, flow_matching_loss, score_matching_loss
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["Sequences", "fit_flow"]

LOSSES = {"flow": flow_matching_loss, "score": score_matching_loss}


@dataclass(frozen=True)
class Sequences:
    """Encoded sequences with their classes, split once into training and held-out rows.

    Arguments:
        tokens: Rows of tokens, each of shape (L,), int64.
        labels: Class numbers, shape (n,), int64.
        held_out: Share of the rows kept apart, in [0, 0.5].
        seed: Seed of the split.
    """

    tokens: Sequence[Tensor]
    labels: Tensor
    held_out: float = 0.05
    seed: int = 0
    _order: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError("tokens must hold at least one sequence, got none")
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"held_out must be in [0, 0.5], got {self.held_out}")
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.tokens), generator=generator).tolist()
        object.__setattr__(self, "_order", order)

    @property
    def rows(self) -> tuple[list[int], list[int]]:
        """Rows for training, and those held out."""
        apart = int(self.held_out * len(self._order))
        return self._order[apart:], self._order[:apart]

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Padded tokens (n, L) and class numbers (n,) of some rows."""
        return padded([self.tokens[i] for i in rows]), self.labels[list(rows)]


def fit_flow(
    net: SimplexDenoiser,
    path: GumbelPath,
    data: Sequences,
    fit: Fit,
    folder: Path,
    batch: int = 64,
    loss: LossKind = "flow",
    resume: bool = False,
    until: int | None = None,
) -> Trainer:
    """Train a denoiser in place; the state in `folder` resumes to the same bits.

    Half of the rows of a batch forget their class, so that one network serves both uses.

    Arguments:
        net: Denoiser; ends with the running average of its weights, if `fit.ema` is positive.
        path: Schedule to train on.
        data: What to train on.
        fit: Steps, learning rate, average, seed.
        folder: Keeps `state.safetensors`, `log.jsonl` and `held_out.jsonl`.
        batch: Sequences a step.
        loss: "flow" (cross-entropy) or "score".
        resume: Take up the state in `folder`.
        until: Stop early at this step, to be resumed.

    Returns:
        The trainer, at its last step.

    Raises:
        ValueError: If an argument is out of range.
    """
    if batch < 1 or loss not in LOSSES:
        raise ValueError(f"batch must be at least 1 and loss one of {', '.join(LOSSES)}")
    train, apart = data.rows
    held = _HeldOut(net, path, data, apart, loss, folder / "held_out.jsonl")
    every = max(1, fit.steps // 20)

    def step_loss(step: int, draws: Draws) -> Tensor:
        if step % every == 0:
            held.measure(step)
        rows = draws.rng.integers(len(train), size=batch)
        tokens, labels = data.batch([train[i] for i in rows])
        labels[torch.from_numpy(draws.rng.random(batch) < 0.5)] = _anything(net)
        t, uniform = draws.uniform(batch), draws.uniform(*tokens.shape, path.categories)
        with torch.random.fork_rng(devices=[]):  # dropout knows no generator of its own
            torch.manual_seed(int(draws.rng.integers(2**62)))
            return LOSSES[loss](net, path, tokens, t, uniform, labels)

    net.count(padded([data.tokens[i] for i in train]))
    trainer = Trainer(nn.ModuleDict({"denoiser": net}), step_loss, fit, folder)
    if resume:
        trainer.resume()
    elif apart:
        held.file.unlink(missing_ok=True)
    net.train()
    trainer.run(until)
    if trainer.step >= fit.steps:
        trainer.modules.load_state_dict(trainer.averaged())
        held.measure(trainer.step)
    net.eval()
    return trainer


def _anything(net: SimplexDenoiser) -> int:
    return net.label.num_embeddings - 1


@dataclass(frozen=True)
class _HeldOut:
    """The loss on rows that are kept apart, at fixed times and noise."""

    net: SimplexDenoiser
    path: GumbelPath
    data: Sequences
    rows: list[int]
    loss: LossKind
    file: Path

    def measure(self, step: int) -> None:
        if not self.rows:
            return
        draws = Draws(0, 0)
        self.net.eval()
        values, weights = [], []
        with torch.no_grad():
            for start in range(0, len(self.rows), 128):
                tokens, _ = self.data.batch(self.rows[start : start + 128])
                t = draws.uniform(len(tokens))
                uniform = draws.uniform(*tokens.shape, self.path.categories)
                values.append(LOSSES[self.loss](self.net, self.path, tokens, t, uniform))
                weights.append(float((tokens >= 0).sum()))
        self.net.train()
        mean = float(torch.stack(values) @ torch.tensor(weights)) / sum(weights)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, "loss": mean}) + "\n")

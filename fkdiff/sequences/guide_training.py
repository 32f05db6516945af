"""Training a guide: a classifier of clean sequences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.sequences.alphabet import one_hot, padded
from fkdiff.sequences.guides import ConvGuide, DescriptorGuide
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["accuracy", "fit_guide"]


def fit_guide(
    guide: ConvGuide | DescriptorGuide,
    positives: Sequence[Tensor],
    negatives: Sequence[Tensor],
    fit: Fit,
    folder: Path,
    batch: int = 64,
) -> Trainer:
    """Train a guide in place by cross-entropy on balanced batches.

    Half of the negatives are cut to the length of a random positive: where classes differ in
    length, the guide would learn that alone.

    Arguments:
        guide: The guide; ends with the running average of its weights, if `fit.ema` is positive.
        positives: Rows of tokens, each of shape (L,), int64.
        negatives: Likewise.
        fit: Steps, learning rate, average, seed.
        folder: Keeps `state.safetensors` and `log.jsonl`.
        batch: Sequences a step.

    Raises:
        ValueError: If a class has no sequences.
    """
    if not positives or not negatives:
        raise ValueError("positives and negatives must hold at least one sequence each")
    k = len(guide.alphabet)

    def loss(step: int, draws: Draws) -> Tensor:
        chosen = [positives[i] for i in draws.rng.integers(len(positives), size=batch // 2)]
        apart = [negatives[i] for i in draws.rng.integers(len(negatives), size=batch // 2)]
        cut = draws.rng.random(len(apart)) < 0.5
        apart = [
            _cut(row, len(chosen[i]), int(draws.rng.integers(2**31))) if cut[i] else row
            for i, row in enumerate(apart)
        ]
        values = guide(one_hot(padded(chosen + apart), k))
        wanted = torch.tensor([1.0] * len(chosen) + [0.0] * len(apart))
        return F.binary_cross_entropy_with_logits(values, wanted)

    trainer = Trainer(nn.ModuleDict({"guide": guide}), loss, fit, folder)
    guide.train()
    trainer.run()
    trainer.modules.load_state_dict(trainer.averaged())
    guide.eval()
    return trainer


def _cut(row: Tensor, length: int, place: int) -> Tensor:
    """A piece of a row, whole where it is no longer than that."""
    start = place % max(1, len(row) - length + 1)
    return row[start : start + length]


@torch.no_grad()
def accuracy(guide: nn.Module, positives: Sequence[Tensor], negatives: Sequence[Tensor]) -> float:
    """Share of sequences on the right side of log-odds 0, both classes weighing the same."""
    k = len(str(guide.alphabet))
    yes = guide(one_hot(padded(positives), k)) > 0
    no = guide(one_hot(padded(negatives), k)) < 0
    return float((yes.float().mean() + no.float().mean()) / 2)

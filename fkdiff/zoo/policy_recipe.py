"""The recipe of the bundled policy: `python -m fkdiff.zoo.policy_recipe STAGE --out DIR`.

The stages, in order: demonstrations, train, export. Needs the extra `policy`.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fkdiff.policy.network import ChunkDenoiser
from fkdiff.zoo.demonstrations import Demonstrations, gather
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["STAGES", "PolicyTask", "main"]

BATCH = 256


class PolicyTask:
    """Noise prediction on windows of demonstrations, weighted as an error of the velocity."""

    def __init__(self, data: Demonstrations, fit: Fit, folder: Path, batch: int = BATCH) -> None:
        self.data, self.batch = data, batch
        torch.manual_seed(fit.seed)
        self.net = ChunkDenoiser()
        self.net.mean.copy_(data.observations.mean(0))
        # Coordinates that hardly move say little; a floor keeps them from shouting.
        self.net.deviation.copy_(data.observations.std(0).clamp(min=0.02))
        self.trainer = Trainer(nn.ModuleDict({"policy": self.net}), self.loss, fit, folder)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Mean square error of the velocity, at levels drawn uniformly."""
        rows = torch.randint(len(self.data.chunks), (self.batch,), generator=draws.torch)
        chunks, observed = self.data.chunks[rows], self.data.observations[rows]
        t = torch.randint(len(self.net.alpha), (self.batch,), generator=draws.torch)
        noise = draws.normal(*chunks.shape)
        alpha, sigma = self.net.alpha[t, None, None], self.net.sigma[t, None, None]
        error = self.net(alpha * chunks + sigma * noise, t, observed) - noise
        return (error / alpha).square().mean()


def _demonstrations(args: argparse.Namespace) -> None:
    gather(args.episodes, args.seed).save(args.out / "demonstrations.safetensors")


def _train(args: argparse.Namespace) -> None:
    fit = Fit(args.steps, lr=1e-3, hold=0.3, ema=0.999, weight_decay=1e-4, seed=args.seed)
    data = Demonstrations.load(args.out / "demonstrations.safetensors")
    task = PolicyTask(data, fit, args.out / "policy")
    if args.resume:
        task.trainer.resume()
    task.trainer.run()


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "demonstrations": _demonstrations,
    "train": _train,
}


def main(argv: list[str] | None = None) -> None:
    """Parses a command line and runs one stage."""
    parser = argparse.ArgumentParser(
        prog="python -m fkdiff.zoo.policy_recipe", description=__doc__
    )
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path("training/policy"))
    parser.add_argument("--episodes", type=int, default=300, help="demonstrations a task")
    parser.add_argument("--steps", type=int, default=10_000, help="updates of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()

"""The recipe of the bundled policy: `python -m fkdiff.zoo.policy_recipe STAGE --out DIR`.

The stages, in order: demonstrations, train, export, calibrate, card. Needs the extra `policy`.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from fkdiff.policy.calibration import Calibration, Recording, calibrate
from fkdiff.policy.levels import Levels
from fkdiff.policy.methods import make_method
from fkdiff.policy.network import ChunkDenoiser
from fkdiff.policy.pipeline import WarmStartPolicyPipeline
from fkdiff.policy.rollouts import Rollouts
from fkdiff.policy.tasks import TASKS
from fkdiff.policy.warm_start import WarmStart
from fkdiff.zoo.demonstrations import Demonstrations, check_disjoint, gather, layouts
from fkdiff.zoo.export import read_part
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["CALIBRATED", "STAGES", "PolicyTask", "calibration_file", "main"]

BATCH = 256
CALIBRATED = (1, 4, 8)
"""Numbers of actions between decisions that calibrations are bundled for."""

CALIBRATION_SEEDS = range(500, 504)
HELD_OUT = range(1000, 1400)
FOLDER = Path(__file__).parent / "metaworld"

ABOUT = (
    "Decides chunks of 16 actions for four Meta-World tasks from the state: hand, gripper and "
    "object now and one step before, goal, and a one-hot code of the task (43 numbers). A "
    "residual MLP that predicts noise, trained on the scripted experts of Meta-World; action "
    "noise, drifts and pushed objects show it recoveries, and the expert's clean action is the "
    "label. The data are scripted: what the scripts can't do, it can't do either."
)


def calibration_file(executed: int, folder: Path = FOLDER) -> Path:
    """The calibration for that many actions between decisions; the pipeline loads that for 1.

    Example:
        >>> calibration_file(4).name
        'calibration_4.json'
    """
    return folder / ("calibration.json" if executed == 1 else f"calibration_{executed}.json")


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


def _export(args: argparse.Namespace) -> None:
    """Write the pipeline in half precision; it decides from noise until it is calibrated."""
    net = ChunkDenoiser()
    weights, _ = read_part(args.out / "policy" / "state.safetensors", "policy")
    net.load_state_dict(weights)
    scheduler = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    WarmStartPolicyPipeline(net.half(), scheduler).save_pretrained(FOLDER)
    _readable()


def _calibrate(args: argparse.Namespace) -> None:
    """Record DDIM episodes of all tasks, measure, and store the settings that follow."""
    pipeline = WarmStartPolicyPipeline.from_pretrained(FOLDER, warm_start=None, calibration=None)
    net: Any = pipeline.denoiser
    net.register_to_config(_name_or_path="")  # else the folder that it lay in is written down
    levels = replace(Levels.of(pipeline.scheduler), eta=0.0)
    for executed in CALIBRATED:
        runs: list[Recording] = []
        for task in TASKS:
            method = make_method("ddim10", net, levels, pipeline.sampler.shape, seed=args.seed)
            rolled = Rollouts(task).run(
                method, list(CALIBRATION_SEEDS), replan=executed, record=True
            )
            runs += [e.recording for e in rolled if e.success and e.recording is not None]
        made = calibrate(net, levels, runs, executed, evaluations=20, seed=args.seed)
        made.save(calibration_file(executed))
        print(f"{executed} actions: {made.choose(levels).explain()}")
    made = Calibration.load(calibration_file(1))
    warm = WarmStart(jump=round(made.jump, 2), max_error=round(made.max_error, 4))
    WarmStartPolicyPipeline(net.half(), pipeline.scheduler, warm, made).save_pretrained(FOLDER)
    _readable()


def _card(args: argparse.Namespace) -> None:
    data = Demonstrations.load(args.out / "demonstrations.safetensors")
    held_out = torch.cat([layouts(task, HELD_OUT) for task in TASKS])
    _, step = read_part(args.out / "policy" / "state.safetensors", "policy")
    quality = json.loads((args.out / "quality.json").read_text()) if args.measured else {}
    card = {
        "name": "metaworld",
        "kind": "policy",
        "summary": "chunks of actions for four Meta-World tasks (WarmStartPolicyPipeline)",
        "about": ABOUT,
        "licence": "weights Apache-2.0; trained on episodes of Meta-World (MIT)",
        "data": {
            "source": "scripted experts of the PyPI package metaworld 3.1",
            "tasks": list(TASKS),
            "episodes": len(data.layouts),
            "windows": len(data.chunks),
            "nearest held-out start in metres": round(check_disjoint(data.layouts, held_out), 5),
        },
        "recipe": [f"python -m fkdiff.zoo.policy_recipe {stage}" for stage in STAGES],
        "seed": args.seed,
        "updates": step,
        "batch": BATCH,
        "parameters": sum(p.numel() for p in ChunkDenoiser().parameters()),
        "quality": quality,
        "defaults": {},
    }
    (FOLDER / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _readable() -> None:
    for file in FOLDER.rglob("*.safetensors"):
        file.chmod(0o644)


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "demonstrations": _demonstrations,
    "train": _train,
    "export": _export,
    "calibrate": _calibrate,
    "card": _card,
}


def main(argv: list[str] | None = None) -> None:
    """Parses a command line and runs one stage."""
    parser = argparse.ArgumentParser(
        prog="python -m fkdiff.zoo.policy_recipe", description=__doc__
    )
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path("training/policy"))
    parser.add_argument("--episodes", type=int, default=160, help="demonstrations a task")
    parser.add_argument("--steps", type=int, default=10_000, help="updates of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--measured", action="store_true", help="card: with what quality.json says of the bench"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()

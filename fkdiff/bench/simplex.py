"""Gumbel-softmax flows on alphabets of 20 to 512 letters: KL from the target, both schedules.

The toy of the Dirichlet and Gumbel-softmax papers: sequences of 4 independent letters, each with
a law of its own, here softmax of standard normal numbers. Networks are trained as `fkdiff sequence
train` does it: the table of letters starts from the counts of the training sequences, then the
whole network goes on by the loss. Letters that are independent are all in that table, so that the
toy says more about sampler and schedule than about networks. The deterministic flow draws 51,200
sequences.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from fkdiff import GumbelFlowPipeline, GumbelFlowScheduler, SimplexDenoiser
from fkdiff.bench.kept import Kept
from fkdiff.bench.latency import one_thread
from fkdiff.processes.simplex import Schedule
from fkdiff.sequences.losses import flow_matching_loss
from fkdiff.zoo.loop import Draws, Fit, Trainer

__all__ = ["run"]

LENGTH = 4
COUNTED = 200_000  # training sequences whose letters are counted
SIZES = (20, 40, 60, 80, 100, 120, 140, 160, 512)
# KL of the published table (arXiv 2503.17361, toy experiment), by method and number of letters.
PUBLISHED = {
    "linear": (0.013, 0.046, 0.070, 0.100, 0.114, 0.112, 0.156, 0.146, 0.479),
    "dirichlet": (0.007, 0.017, 0.032, 0.035, 0.028, 0.024, 0.039, 0.053, 0.554),
    "fisher": (0.0004, 0.007, 0.007, 0.007, 0.008, 0.043, 0.013, 0.013, 0.036),
    "gumbel": (0.029, 0.027, 0.025, 0.027, 0.030, 0.029, 0.035, 0.038, 0.048),
}


@one_thread()
def run(quick: bool = False, seed: int = 0, resume: Path | None = None) -> dict[str, Any]:
    """Train and sample for each alphabet and schedule; arguments as for `run_bench`.

    Returns:
        Fields `kl.consistent.K*` and `kl.paper.K*`, mean over positions of
        KL(empirical || target); `floor.K*`, what exact samples have, (K - 1) / 2N;
        `published.METHOD.K*`.
    """
    n, training, steps = (5120, 40, 16) if quick else (51200, 200, 32)
    sizes = (20, 160) if quick else SIZES
    settings = {"seed": seed, "n": n, "training": training, "steps": steps, "counted": COUNTED}
    kept = Kept(resume, settings)
    kl: dict[str, dict[str, float]] = {schedule: {} for schedule in get_args(Schedule)}
    order = sorted(sizes, key=lambda k: k not in (20, 160, 512))  # the ends and the bar first
    jobs = [(k, schedule) for k in order for schedule in get_args(Schedule)]
    for k, schedule in tqdm(jobs, desc="simplex"):
        make = partial(_divergence, k, schedule, n, training, steps, seed)
        kl[schedule][f"K{k}"] = kept.part(f"{schedule}.K{k}", make)
    floor = {f"K{k}": (k - 1) / (2 * n) for k in sizes}
    published = {
        method: {f"K{k}": row[SIZES.index(k)] for k in sizes} for method, row in PUBLISHED.items()
    }
    return {"kl": kl, "floor": floor, "published": published, "settings": settings}


def _divergence(k: int, schedule: Schedule, n: int, training: int, steps: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(1000 * seed + k)
    target = torch.randn(LENGTH, k, generator=generator, dtype=torch.float64).softmax(-1)
    pipe = _trained(target, schedule, training, seed)
    pipe.set_progress_bar_config(disable=True)
    counts = torch.zeros(LENGTH, k, dtype=torch.float64)
    size = max(64, 2**18 // (LENGTH * k))  # stays in the cache
    for start in range(0, n, size):
        drawn: Any = pipe(
            min(size, n - start),
            num_inference_steps=steps,
            generator=generator,
            output_type="tokens",
        )
        counts += torch.nn.functional.one_hot(drawn.sequences, k).sum(0)
    shares = counts / n
    return float(torch.xlogy(shares, shares / target).sum(1).mean())


def _trained(
    target: torch.Tensor, schedule: Schedule, steps: int, seed: int
) -> GumbelFlowPipeline:
    k = target.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        letters = "".join(chr(0x4E00 + i) for i in range(k))
        net = SimplexDenoiser(letters, LENGTH, width=32, layers=1, heads=2)
    scheduler = GumbelFlowScheduler(k, schedule)
    batch = 512

    def drawn(n: int, draws: Draws) -> torch.Tensor:
        return torch.multinomial(target, n, replacement=True, generator=draws.torch).T

    def loss(step: int, draws: Draws) -> torch.Tensor:
        tokens = drawn(batch, draws)
        t, uniform = draws.uniform(batch), draws.uniform(batch, LENGTH, k)
        return flow_matching_loss(net, scheduler.path, tokens, t, uniform)

    net.count(drawn(COUNTED, Draws(seed, steps)))
    fit = Fit(steps, lr=1e-3, warmup=20, ema=0.98, weight_decay=0.0, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(torch.nn.ModuleDict({"net": net}), loss, fit, Path(folder) / f"K{k}")
        trainer.rank = 1  # no bar and no file: it takes seconds
        trainer.run()
    trainer.modules.load_state_dict(trainer.averaged())
    return GumbelFlowPipeline(net.eval(), scheduler)

"""What sharing one cloud over processes costs: bytes, and processor time beyond the work."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed as dist

from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.bench.emoji_arms import stock_emoji
from fkdiff.bench.tables import by_field
from fkdiff.processes.shards import Shards
from fkdiff.run import Run

__all__ = ["PROCESSES", "run"]

PROCESSES = (2, 4)
PARTICLES, MICRO_BATCH = 16, 4
_WAIT = 1800  # seconds until processes that don't end are given up


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Share a run of `emoji` over 2 and 4 gloo processes, each with one thread; see `run_bench`.

    16 particles in micro-batches of 4 with a reward that costs nothing and resamples often: the
    dear case. A run in one process, with the same micro-batches, is what they are held against.

    Returns:
        By number of processes R: `bytes_ratio`, bytes received by all processes over those that
        must move (of rows that are continued elsewhere, once for each process that needs one, and
        of the record's and the output's rows, which all processes get); `overhead_share`, the
        processor time of all threads within exchanges and within the engine, which each process
        runs for the whole cloud, over all that they spend (a process asleep until a slower one
        comes spends nothing); `processor_ratio`, all that they spend over what one process does
        for the same run, where text encoding and scheduler run once; `identical`, whether latents
        and weights have the bits of one process; `seconds` on the wall, which say little where
        there are fewer cores than processes. Means of the repeats.
    """
    settings = {"steps": 6 if quick else 30, "repeats": 1 if quick else 2, "seed": seed}
    table = by_field({str(world): _measured(world, settings) for world in PROCESSES})
    return {**table, "particles": PARTICLES, "micro_batch": MICRO_BATCH, **settings}


def _measured(world: int, settings: dict[str, Any]) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={world}", "-m", __name__, json.dumps(settings)),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=_WAIT)
    return json.loads(done.stdout.splitlines()[-1])


def _child(steps: int, repeats: int, seed: int) -> dict[str, Any] | None:
    """One process of a group: takes turns between the run alone, by the first, and the shared."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    _Drawn(2, seed)(None)  # imports, buffers and kernels of the first call
    drawn, alone, shared = _Drawn(steps, seed), [], []
    for _ in range(repeats):
        dist.barrier()
        if dist.get_rank() == 0:
            alone.append(drawn(None))
        dist.barrier()
        shared.append(_over_all(drawn(group)))
    dist.barrier()
    dist.destroy_process_group()
    return _summary(alone, shared, drawn) if alone else None


@dataclass
class _Drawn:
    """One measured run, alone or with a group."""

    steps: int
    seed: int
    pipe: Any = field(default_factory=stock_emoji)
    moved: dict[int, int] = field(default_factory=dict)
    result: Any = None
    output: Any = None

    def __call__(self, group: Any) -> dict[str, float]:
        free = as_reward(lambda z: z.flatten(1).mean(dim=1), name="free", inputs="latents")
        steered = steer(
            self.pipe,
            Tilt(free, 100.0),
            particles=PARTICLES,
            micro_batch=MICRO_BATCH,
            resample=Resample(ess=0.9, window=(0.1, 0.9)),
            seed=self.seed,
            group=group,
        )
        spent: dict[str, float] = {"overhead": 0.0}
        call = {"num_inference_steps": self.steps, "output_type": "pt"}
        moved: dict[int, int] = {}
        with _counted(spent, moved):
            wall, start = time.perf_counter(), time.process_time()
            out = steered("a cat on a blue background", **call)
            spent["total"] = time.process_time() - start
            spent["seconds"] = time.perf_counter() - wall
        found = out.steering
        if group is None or self.result is None:
            self.result, self.output, self.moved = found, out.images, moved
        spent["bytes"] = found.cost.exchanged_bytes
        same = self.result.latents.equal(found.latents) and self.result.log_w.equal(found.log_w)
        return {**spent, "same": float(same)}


@contextmanager
def _counted(spent: dict[str, float], moved: dict[int, int]) -> Iterator[None]:
    """Counts in a run's `overhead` the processor time of all threads in exchanges and the engine.

    Inner calls count once. `moved` is given the bytes of one row in all that each resampling
    moves, by the identity of the tensor of parents.
    """
    inside: list[bool] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return call(*args, **kwargs)
            inside.append(True)
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent["overhead"] += time.process_time() - start
                inside.clear()

        return count

    take = timed(Shards.take)

    def watched(shards: Shards, values: Any, parents: Any) -> Any:
        size = sum(value.numel() * value.element_size() for value in values)
        moved[id(parents)] = moved.get(id(parents), 0) + size // len(shards.rows)
        return take(shards, values, parents)

    with ExitStack() as patches:
        for name in ("gather", "total", "agree", "share", "at_home"):
            patches.enter_context(patch.object(Shards, name, timed(getattr(Shards, name))))
        patches.enter_context(patch.object(Run, "transition", timed(Run.transition)))
        patches.enter_context(patch.object(Shards, "take", watched))
        yield


def _over_all(mine: dict[str, float]) -> dict[str, float]:
    """Sums over the processes; bytes are summed already, and all must be the same."""
    names = ("overhead", "total", "same")
    sums = torch.tensor([mine[name] for name in names], dtype=torch.float64)
    dist.all_reduce(sums)
    return {**mine, **dict(zip(names, sums.tolist(), strict=True))}


def _summary(
    alone: list[dict[str, float]], shared: list[dict[str, float]], drawn: _Drawn
) -> dict[str, Any]:
    world = int(os.environ["WORLD_SIZE"])
    spent = sum(many["total"] for many in shared)
    return {
        "bytes_ratio": shared[0]["bytes"] / _must_move(drawn, world),
        "overhead_share": sum(many["overhead"] for many in shared) / spent,
        "processor_ratio": spent / sum(one["total"] for one in alone),
        "identical": all(many["same"] == world for many in shared),
        "seconds": mean(many["seconds"] for many in shared),
        "seconds_alone": mean(one["seconds"] for one in alone),
    }


def _must_move(drawn: _Drawn, world: int) -> int:
    """Bytes of the rows that some process needs and another has, by the run alone."""
    result, owner = drawn.result, torch.arange(PARTICLES) // (PARTICLES // world)
    moved = 0
    for rows in result.rows:
        if rows is not None:
            needed = {(int(p), int(q)) for p, q in zip(rows, owner, strict=True) if owner[p] != q}
            # The lineage keeps the very tensors that rows were moved by.
            moved += len(needed) * drawn.moved[id(rows)]
    latents, image = result.latents[0, 0].numel() * 4, drawn.output[0].numel() * 4
    return moved + (world - 1) * (PARTICLES * latents + len(drawn.output) * image)


if __name__ == "__main__":
    measured = _child(**json.loads(sys.argv[1]))
    if measured is not None:
        print(json.dumps(measured))

"""What sharing one cloud over processes costs: bytes, and processor time beyond the work."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean
from typing import Any

__all__ = ["PROCESSES", "run"]

PROCESSES = (2, 4)
PARTICLES, MICRO_BATCH = 16, 4
_WAIT = 1800  # seconds until processes that don't end are given up


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Share a run of `emoji` over 2 and 4 gloo processes, each with one thread.

    16 particles in micro-batches of 4 with a reward that costs nothing and resamples often: the
    dear case. A run in one process, with the same micro-batches, is what they are held against.

    Arguments:
        quick: 6 steps, once, instead of 30 steps twice.
        seed: Seed of the noise.

    Returns:
        By number of processes R: `bytes_ratio`, bytes received by all processes over those that
        must move (of rows that are continued elsewhere, once for each process that needs one, and
        of the record's and the output's rows, which all processes get); `overhead_share`, the
        processor time that all threads of all processes spend within exchanges (packing, talking,
        being woken) and within the engine, which each process runs for the whole cloud, over all
        that they spend: a process asleep until a slower one comes spends nothing, and shows in
        `seconds` alone; `processor_ratio`, all that they spend over what one process does for the
        same run, which also counts text encoding and scheduler once a process; `identical`,
        whether latents and weights have the bits of one process; `seconds` on the wall, which say
        little where there are fewer cores than processes. Means of the repeats.
    """
    settings = {"steps": 6 if quick else 30, "repeats": 1 if quick else 2, "seed": seed}
    found = {str(world): _measured(world, settings) for world in PROCESSES}
    names = next(iter(found.values()))
    return {name: {r: values[name] for r, values in found.items()} for name in names} | {
        "particles": PARTICLES,
        "micro_batch": MICRO_BATCH,
        **settings,
    }


def _measured(world: int, settings: dict[str, Any]) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={world}", "-m", "fkdiff.bench.scale", json.dumps(settings)),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=_WAIT)
    return json.loads(done.stdout.splitlines()[-1])


def _child(steps: int, repeats: int, seed: int) -> dict[str, Any] | None:
    """One process of a group: takes turns between the run alone, by the first, and the shared."""
    import torch
    from torch import distributed as dist

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


class _Drawn:
    """One measured run, alone or with a group."""

    def __init__(self, steps: int, seed: int) -> None:
        from diffusers import DiffusionPipeline

        from fkdiff import zoo

        self.steps, self.seed = steps, seed
        self.pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
        self.pipe.set_progress_bar_config(disable=True)
        self.moved: dict[int, int] = {}
        self.result: Any = None
        self.output: Any = None

    def __call__(self, group: Any) -> dict[str, float]:
        from fkdiff import Resample, Tilt, as_reward, steer

        free = as_reward(lambda z: z.flatten(1).mean(dim=1), name="free", inputs="latents")
        given: dict[str, Any] = {
            "particles": PARTICLES,
            "micro_batch": MICRO_BATCH,
            "seed": self.seed,
        }
        resample = Resample(ess=0.9, window=(0.1, 0.9))
        steered = steer(self.pipe, Tilt(free, 100.0), resample=resample, group=group, **given)
        spent: dict[str, float] = {"overhead": 0.0}
        call = {"num_inference_steps": self.steps, "output_type": "pt"}
        if group is None:
            self.moved = {}
        with _counted(spent), _watched(self.moved if group is None else None):
            wall, start = time.perf_counter(), time.process_time()
            out = steered("a cat on a blue background", **call)
            spent["total"] = time.process_time() - start
            spent["seconds"] = time.perf_counter() - wall
        if group is None or self.result is None:
            self.result, self.output = out.steering, out.images
        spent["bytes"] = out.steering.cost.exchanged_bytes
        spent["same"] = float(
            self.result.latents.equal(out.steering.latents)
            and self.result.log_w.equal(out.steering.log_w)
        )
        return spent


@contextmanager
def _counted(spent: dict[str, float]) -> Iterator[None]:
    """Processor time, of all threads, inside exchanges and the engine; inner calls count once."""
    from fkdiff.processes.shards import Shards
    from fkdiff.run import Run

    names = [(Shards, name) for name in ("gather", "total", "agree", "take", "share", "at_home")]
    held = [(owner, name, getattr(owner, name)) for owner, name in [*names, (Run, "transition")]]
    inside: list[bool] = []
    for owner, name, call in held:
        setattr(owner, name, _timed(call, spent, inside))
    try:
        yield
    finally:
        for owner, name, call in held:
            setattr(owner, name, call)


def _timed(
    call: Callable[..., Any], spent: dict[str, float], inside: list[bool]
) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        if inside:
            return call(*args, **kwargs)
        inside.append(True)
        start = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent["overhead"] += time.process_time() - start
            inside.clear()

    return timed


@contextmanager
def _watched(moved: dict[int, int] | None) -> Iterator[None]:
    """Bytes of one row in all that each resampling moves, by the tensor that says which."""
    from fkdiff.processes.shards import Shards

    takes = Shards.take

    def take(shards: Shards, values: Any, parents: Any) -> Any:
        if moved is not None:
            size = sum(value.numel() * value.element_size() for value in values)
            moved[id(parents)] = moved.get(id(parents), 0) + size // len(shards.rows)
        return takes(shards, values, parents)

    setattr(Shards, "take", take)  # noqa: B010  # not by assignment, which no type allows
    try:
        yield
    finally:
        setattr(Shards, "take", takes)  # noqa: B010


def _over_all(mine: dict[str, float]) -> dict[str, float]:
    """Sums over the processes; bytes are summed already, and all must be the same."""
    import torch
    from torch import distributed as dist

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
    """Bytes of the rows that some process needs and another has, told by the run alone."""
    import torch

    result, each = drawn.result, PARTICLES // world
    owner = torch.arange(PARTICLES) // each
    resampled = [rows for rows in result.rows if rows is not None]
    moved = sum(
        len({(int(p), int(q)) for p, q in zip(rows, owner, strict=True) if owner[p] != q})
        * drawn.moved[id(rows)]  # the lineage keeps the very tensors that rows were moved by
        for rows in resampled
    )
    latents, image = result.latents[0, 0].numel() * 4, drawn.output[0].numel() * 4
    record = (world - 1) * (PARTICLES * latents + len(drawn.output) * image)
    return moved + record


if __name__ == "__main__":
    measured = _child(**json.loads(sys.argv[1]))
    if measured is not None:
        print(json.dumps(measured))

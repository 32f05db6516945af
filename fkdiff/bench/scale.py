"""What sharing one cloud over processes costs: bytes, and processor time beyond the work."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
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
        quick: 6 steps, once, instead of 30 steps three times.
        seed: Seed of the noise.

    Returns:
        By number of processes R: `bytes_ratio`, bytes received by all processes over those that
        must move (of rows that are continued elsewhere, once for each process that needs one, and
        of the record's and the output's rows, which all processes get); `overhead_share`, the
        processor time that R processes spend outside network, decoder and reward more than one
        does, over all that they spend; `communication_share`, what of all is inside exchanges;
        `identical`, whether latents and weights have the bits of one process; `seconds` on the
        wall, which says little where there are fewer cores than processes. Medians of the repeats.
    """
    settings = {"steps": 6 if quick else 30, "repeats": 1 if quick else 3, "seed": seed}
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
        given = {"particles": PARTICLES, "micro_batch": MICRO_BATCH, "seed": self.seed}
        resample = Resample(ess=0.9, window=(0.1, 0.9))
        steered = steer(self.pipe, Tilt(free, 100.0), resample=resample, group=group, **given)
        spent: dict[str, float] = {"work": 0.0, "exchange": 0.0}
        call = {"num_inference_steps": self.steps, "output_type": "pt"}
        with _counted(self.pipe, spent), _watched(spent, self._moves() if group is None else None):
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

    def _moves(self) -> dict[int, int]:
        self.moved = {}
        return self.moved


@contextmanager
def _counted(pipe: Any, spent: dict[str, float]) -> Iterator[None]:
    """Processor time inside the network and the decoder; the reward costs nothing."""
    held = {}
    for module, name in ((pipe.unet, "forward"), (pipe.vae, "decode")):
        held[module] = name
        setattr(module, name, _timed(getattr(module, name), spent))
    try:
        yield
    finally:
        for module, name in held.items():
            delattr(module, name)


def _timed(call: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(call)  # the taps read its signature
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            spent["work"] += time.process_time() - start

    return timed


@contextmanager
def _watched(spent: dict[str, float], moved: dict[int, int] | None) -> Iterator[None]:
    """Processor time of exchanges; bytes of one row in all that each resampling moves, by it."""
    from fkdiff.processes.peers import Peers
    from fkdiff.processes.shards import Shards

    joins, takes = Peers.__init__, Shards.take
    found: list[Peers] = []

    def join(peers: Peers, group: Any) -> None:
        joins(peers, group)
        found.append(peers)

    def take(shards: Shards, values: Any, parents: Any) -> Any:
        if moved is not None:
            size = values.numel() * values.element_size() // len(shards.rows)
            moved[id(parents)] = moved.get(id(parents), 0) + size
        return takes(shards, values, parents)

    Peers.__init__, Shards.take = join, take
    try:
        yield
    finally:
        Peers.__init__, Shards.take = joins, takes
        spent["exchange"] = sum(peers.processor for peers in found)


def _over_all(mine: dict[str, float]) -> dict[str, float]:
    """Sums over the processes; bytes are summed already, and all must be the same."""
    import torch
    from torch import distributed as dist

    names = ("work", "exchange", "total", "same")
    sums = torch.tensor([mine[name] for name in names], dtype=torch.float64)
    dist.all_reduce(sums)
    return {**mine, **dict(zip(names, sums.tolist(), strict=True))}


def _summary(
    alone: list[dict[str, float]], shared: list[dict[str, float]], drawn: _Drawn
) -> dict[str, Any]:
    world = int(os.environ["WORLD_SIZE"])
    beyond = [
        (many["total"] - many["work"] - one["total"] + one["work"]) / many["total"]
        for one, many in zip(alone, shared, strict=True)
    ]
    return {
        "bytes_ratio": shared[0]["bytes"] / _must_move(drawn, world),
        "overhead_share": median(beyond),
        "communication_share": median(many["exchange"] / many["total"] for many in shared),
        "identical": all(many["same"] == world for many in shared),
        "seconds": median(many["seconds"] for many in shared),
        "seconds_alone": median(one["seconds"] for one in alone),
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

"""Runs that processes of a gloo group make together, and their record as digests.

Launched by `tests/test_many_processes.py`; imported once by the server that forks the processes.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import torch.distributed as dist

from fkdiff import (
    Anneal,
    Correct,
    Cutout,
    Grid,
    Product,
    Resample,
    Tilt,
    as_reward,
    sample,
    steer,
)
from fkdiff.cli import main
from fkdiff.processes.shards import Shards
from fkdiff.result import Result
from fkdiff.taps.snapshot_file import read_tree
from fkdiff.taps.snapshots import Snapshots
from tests.tiny import build

__all__ = ["CASES", "COMPARED", "REFUSALS", "commanded", "dying", "identity"]

ALWAYS = Resample("multinomial", ess=None, window=(0, 1))
LARGE = {"num_inference_steps": 4, "output_type": "pt"}


def bright(inputs: str = "pixels", name: str = "bright") -> Any:
    return as_reward(lambda x: x.flatten(1).mean(1), name=name, inputs=inputs)


def contrast() -> Any:
    return as_reward(lambda x: x.flatten(1).var(1), name="contrast")


Drawn = tuple[Result, Any]


def drawn(
    tiny: str,
    *terms: Any,
    scheduler: Callable[[Any], Any] | None = None,
    call: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Any], Drawn]:
    """A run of a tiny pipeline by a group."""

    def run(group: Any) -> Drawn:
        made = build(tiny)
        if scheduler is not None:
            made.pipe.scheduler = scheduler(made.pipe.scheduler.config)
        given = {"resample": ALWAYS, "seed": 11, **settings}
        out = steer(made.pipe, *terms, group=group, **given)(
            **{**made.call, **LARGE, **(call or {})}
        )
        return out.steering, out[0]

    return run


def sde_solver(config: Any) -> Any:
    solver = diffusers.DPMSolverMultistepScheduler
    return solver.from_config(config, algorithm_type="sde-dpmsolver++", solver_order=2)


def scores(group: Any) -> Drawn:
    def score(mean: float) -> Callable[..., Any]:
        return lambda x, alpha, sigma: -(x - alpha * mean) / (alpha**2 + sigma**2)

    terms = Product(score(2.0)), Correct(), Tilt(bright("latents"), 3.0)
    path = Grid.vp(6, prediction="score")
    given = {"shape": (8, 2), "prompts": 2, "particles": 7, "micro_batch": 2, "seed": 5}
    result = sample(score(0.0), path, *terms, resample=ALWAYS, group=group, **given)
    return result, result.latents


FAST = Tilt(bright(), 400.0)

CASES: dict[str, tuple[int, Callable[[Any], Drawn]]] = {
    # The scheduler's step is replaced by the SDE step; chunks of two, the last one of one.
    "uneven": (2, drawn("sd", FAST, particles=5, micro_batch=2, monitor=[contrast()])),
    "one by one": (4, drawn("sd", FAST, particles=5, micro_batch=1)),
    "prompts": (
        2,
        drawn(
            "sd",
            FAST,
            particles=3,
            micro_batch=3,
            call={"prompt": ["a cat", "a dog", "a key"]},
        ),
    ),
    "prompts on four": (
        4,
        drawn("sd", FAST, particles=6, micro_batch=2, call={"prompt": ["a cat", "a dog"]}),
    ),
    # Its own noise and the model outputs of the steps before.
    "solver": (2, drawn("sd", FAST, particles=4, micro_batch=2, scheduler=sde_solver)),
    "all": (
        2,
        drawn(
            "sd",
            Tilt(bright("latents"), 50.0),
            particles=5,
            micro_batch=2,
            select="all",
            call={"output_type": "pil", "num_images_per_prompt": 5},
        ),
    ),
    "plain": (2, drawn("sd", particles=5, micro_batch=2, call={"num_images_per_prompt": 3})),
    "adaptive draws": (
        2,
        drawn(
            "sd",
            Tilt(bright(), 400.0, draws=2, schedule="adaptive"),
            particles=4,
            micro_batch=2,
        ),
    ),
    "pool": (
        2,
        drawn(
            "sd",
            *(Product("a dog", 0.3), Anneal(1.1), Correct(), FAST),
            particles=4,
            micro_batch=2,
        ),
    ),
    "from an image": (2, drawn("sd_img2img", FAST, particles=4, micro_batch=2)),
    "control": (2, drawn("sd_controlnet", FAST, particles=4, micro_batch=2)),
    "cogvideox": (2, drawn("cogvideox", Tilt(bright("video"), 400.0), particles=4, micro_batch=2)),
    "cut-outs": (2, drawn("sd", Cutout(), FAST, particles=4, micro_batch=2)),
    "labels": (2, drawn("dit", FAST, particles=4, micro_batch=2)),
    "lists": (2, drawn("zimage", FAST, particles=4, micro_batch=2)),
    "seeds": (2, drawn("sd", FAST, particles=4, micro_batch=2, seed=[3, 1, 4, 1])),
    "scores": (2, scores),
}

COMPARED = {"history": lambda group: without_moves(CASES["solver"][1], group)}
"""Controls: what must differ from the case "solver"."""


def without_moves(run: Callable[[Any], Drawn], group: Any) -> Drawn:
    """A run in which a solver's history stays with the slots where rows go to other processes."""
    take = Shards.take

    def careless(self: Shards, values: Any, parents: Any) -> Any:
        return [*take(self, values[:1], parents), *values[1:]]

    Shards.take = careless
    try:
        return run(group)
    finally:
        Shards.take = take


def digest(value: Any) -> str:
    if isinstance(value, list):
        value = np.stack([np.asarray(item) for item in value])
    array = np.ascontiguousarray(np.asarray(value))
    return hashlib.sha256(
        repr((array.shape, str(array.dtype))).encode() + array.tobytes()
    ).hexdigest()


def record(result: Result, output: Any) -> dict[str, Any]:
    """Digests of all that must not depend on the processes, and what was spent."""
    moved = [rows for rows in result.rows if rows is not None]
    named = {"latents": result.latents, "log_w": result.log_w, "log_z": result.log_z}
    named |= {"twist": result.log_twist, "selected": result.selected, "output": output}
    named |= {f"reward {name}": value for name, value in result.rewards.items()}
    named |= {f"ess {t.index}": t.ess for t in result.trace}
    named |= {f"rows {i}": rows for i, rows in enumerate(moved)}
    if result.samples is not None:
        named["samples"] = result.samples
    cost = result.cost
    spent = [cost.denoiser_evaluations, cost.decodes, dict(sorted(cost.reward_calls.items()))]
    return {
        "digests": {name: digest(value) for name, value in named.items()},
        "spent": spent,
        "crossed": crossed(moved, result.log_w.shape[1]),
        "bytes": cost.exchanged_bytes,
    }


def crossed(moved: list[Any], particles: int) -> int:
    """Rows that went from one half of the slots to the other."""
    half = particles // 2
    return sum(
        int(((rows % particles < half) != (torch.arange(len(rows)) % particles < half)).sum())
        for rows in moved
    )


def joined(rank: int, world: int, folder: str, seconds: float) -> None:
    """Join the group; one thread, as sums run in another order on several."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=seconds),
    )


def identity(rank: int, folder: str, names: list[str]) -> None:
    """Every case on its number of processes, and in one; digests into `folder`."""
    joined(rank, 4, folder, 900)  # a busy machine may keep some waiting
    two = dist.new_group([0, 1])
    found: dict[str, Any] = {}
    for place, name in enumerate(names):
        size, run = CASES[name]
        if rank < size:
            found[name] = record(*run(two if size == 2 else dist.group.WORLD))
        if rank == place % 4:
            found[f"{name} alone"] = record(*run(None))
    if rank < 2:
        for name, run in COMPARED.items():
            found[f"control {name}"] = record(*run(two))
        found["refusals"] = {name: refusal(run, two) for name, run in REFUSALS.items()}
        found["kept"] = kept(Path(folder, "kept"), two)
    if rank == 0:
        found["kept alone"] = record(*counted()(None))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def counted(keep: Path | None = None) -> Callable[[Any], Drawn]:
    return drawn("sd", Tilt(as_reward(counting), 400.0), particles=4, micro_batch=2, keep=keep)


def counting(pixels: Any) -> Any:
    counting.calls += 1
    return pixels.flatten(1).mean(1)


counting.calls = 0


def kept(folder: Path, group: Any) -> dict[str, Any]:
    """A run that ends while its states get their names, one that goes on, and one that can't.

    The second process ends when both have written the state after the second step, and only the
    first one's has got its name.
    """
    run, meet = counted(folder), Shards.meet

    def torn(self: Shards) -> None:
        meet(self)
        torn.calls += 1
        if torn.calls == 2 and self.rank == 1:
            raise InterruptedError("killed")

    torn.calls, Shards.meet = 0, torn
    found: dict[str, Any] = {"killed": refusal(run, group)}
    Shards.meet = meet
    mine = Snapshots(folder).file_of(dist.get_rank())
    found["named"] = read_tree(mine)[0]["moves"]
    counting.calls = 0
    found["rest"] = record(*run(group))
    found["calls"] = counting.calls
    if dist.get_rank() == 1:
        mine.unlink()
    found["torn"] = refusal(run, group)
    Snapshots(folder, fresh=True).forget(2)
    return found


def refusal(run: Callable[[Any], Drawn], group: Any) -> str:
    try:
        run(group)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def failing(pixels: Any) -> Any:
    if dist.get_rank() == 1:
        failing.calls += 1
        if failing.calls == 2:
            raise ArithmeticError("no more ink")
    return pixels.flatten(1).mean(1)


failing.calls = 0


def by_rank(samples: Any) -> Any:
    return samples.flatten(1).mean(1) + 0.01 * dist.get_rank()


def ranked(inputs: str, monitored: bool = False, tiny: str = "sd") -> Callable[[Any], Drawn]:
    """A run with a reward that depends on the process which scores."""
    reward = as_reward(by_rank, inputs=inputs)
    monitor = [reward + bright(inputs)] if monitored else []
    terms = [] if monitored else [Tilt(reward, 400.0)]
    return drawn(tiny, *terms, particles=4, monitor=monitor)


def ranked_sample(group: Any) -> Any:
    path, tilt = Grid.vp(4, prediction="score"), Tilt(as_reward(by_rank, inputs="latents"))
    return sample(lambda x, a, s: -x, path, tilt, shape=(2,), particles=4, seed=0, group=group)


def own_seed(group: Any) -> Drawn:
    return drawn("sd", FAST, particles=4, seed=dist.get_rank())(group)


def own_call(group: Any) -> Drawn:
    steps = {"num_inference_steps": 3 + dist.get_rank()}
    return drawn("sd", FAST, particles=4, call=steps)(group)


def in_the_tail(group: Any) -> Drawn:
    """The first process fails when its steps are over, while its last words are waited for."""

    def done(pipe: Any, index: int, t: Any, tensors: Any) -> Any:
        if index == 3 and dist.get_rank() == 0:
            raise OSError("the disk is full")
        return tensors

    return drawn("sd", FAST, particles=4, call={"callback_on_step_end": done})(group)


REFUSALS: dict[str, Callable[[Any], Drawn]] = {
    "raises": drawn("sd", Tilt(as_reward(failing), 400.0), particles=4),
    "raises at the end": in_the_tail,
    "goes on after": drawn("sd", particles=2),
    "a reward by rank": ranked("pixels"),
    "a monitor by rank": ranked("pixels", monitored=True),
    "a reward of latents by rank": ranked("latents"),
    "a reward of sounds by rank": ranked("audio", tiny="stable_audio"),
    "a reward by rank in sample": ranked_sample,
    "few particles": drawn("sd", FAST, particles=1),
    "large micro-batch": drawn("sd", FAST, particles=4, micro_batch=8, call={"prompt": ["a"] * 2}),
    "a mask": drawn("sd_inpaint", FAST, particles=4),
    "an image": drawn("flux_img2img", FAST, particles=4),
    "another seed": own_seed,
    "another call": own_call,
    "no group": lambda group: drawn("sd", FAST, particles=4)("world"),
}


def dying(rank: int, folder: str, how: str) -> None:
    """The second process dies or hangs in the middle; the first says what it saw."""
    joined(rank, 2, folder, 900)
    group: Any = dist.group.WORLD
    if how == "hangs":
        group = dist.new_group([0, 1], timeout=timedelta(seconds=10))

    def reward(pixels: Any) -> Any:
        reward.calls += 1
        if rank == 1 and reward.calls == 2:
            os._exit(3) if how == "dies" else time.sleep(600)
        return pixels.flatten(1).mean(1)

    reward.calls = 0
    start = time.monotonic()
    run = drawn("sd", Tilt(as_reward(reward), 400.0), particles=4, micro_batch=2)
    told = refusal(run, group)
    found = {"told": told, "seconds": time.monotonic() - start}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # a group without one of its processes isn't taken down in order


def commanded(rank: int, folder: str, port: int, words: list[str]) -> None:
    """The command line in two processes as accelerate starts them by MPI; what each says is kept.

    MPI's variables are set, and MPI itself isn't there.
    """
    torch.set_num_threads(1)
    os.chdir(folder)
    mpi = {"RANK": rank, "LOCAL_RANK": rank, "SIZE": 2, "LOCAL_SIZE": 2}
    os.environ |= {f"OMPI_COMM_WORLD_{name}": str(number) for name, number in mpi.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "True"}
    told, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(errors):
        code = main(words)
    found = {"code": code, "told": told.getvalue(), "errors": errors.getvalue()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))

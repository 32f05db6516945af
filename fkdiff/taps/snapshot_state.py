"""What a run of a `PipelineTap` remembers between two steps, and putting it back."""

from typing import Any

import torch
from torch import Tensor

from fkdiff.taps.guidance import Guidance
from fkdiff.taps.scheduler import Call
from fkdiff.taps.snapshot_file import fits
from fkdiff.taps.walks import continued

__all__ = ["restore", "state_of"]


def state_of(tap: Any, call: Call) -> dict[str, Any]:
    """Everything that the run remembers after a call of the scheduler, but its history."""
    moves, batch = tap.moves, len(call.sample)
    return {
        "position": call.position,
        "calls": call.calls,
        "moves": tap.index,
        "output": {
            name: value
            for name, value in call.output.items()
            if isinstance(value, Tensor) and value.ndim and len(value) == batch
        },
        "scheduler": {name: v for name, v in vars(call.scheduler).items() if fits(v)},
        "generators": [generator.get_state() for generator in tap.generators],
        "parents": tap.parents,
        "origin": tap.origin,
        "replaced": tap.replaced,
        "micro_batch": tap.micro_batch,
        "pool": None if moves is None else _pool_state(moves.pool),
        "engine": tap.engine.state(),
        "cost": {name: value for name, value in vars(tap.cost).items() if fits(value)},
    }


def restore(tap: Any, call: Call, saved: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Put a `state_of` back into the tap, the scheduler and what its step returns.

    Arguments:
        tap: The tap, changed in place.
        call: The call of the scheduler after which the state was kept, in the replayed run.
        saved: The state.
        history: What each transition until then has left.
    """
    here = vars(call.scheduler)
    for name, value in saved["scheduler"].items():
        if name in here:  # a file can't give a scheduler what it doesn't have
            here[name] = _placed(value, here[name], call.sample)
    call.output.update(
        {name: _placed(v, None, call.sample) for name, v in saved["output"].items()}
    )
    for generator, state in zip(tap.generators, saved["generators"], strict=True):
        generator.set_state(state)
    tap.index, tap.parents, tap.origin = saved["moves"], saved["parents"], saved["origin"]
    tap.own.replaced = saved["replaced"]
    tap.micro_batch = _less(tap.micro_batch, saved["micro_batch"])
    continued(tap.kept.permute, saved["origin"], tap.shards)
    if tap.moves is not None:
        _restore_pool(tap.moves.pool, saved["pool"], call.sample.device)
    tap.engine.restore(saved["engine"], history)
    for name, value in saved["cost"].items():
        setattr(tap.cost, name, value)


def _pool_state(pool: Any) -> dict[str, Any]:
    guidance, maps = pool.guidance, None if pool.regions is None else pool.regions.maps
    return {
        "guidance": None if guidance is None else dict(vars(guidance)),
        "shrink": pool.shrink,
        "progress": pool.progress,
        "maps": None if maps is None else maps.state(),
    }


def _restore_pool(pool: Any, saved: dict[str, Any], device: torch.device) -> None:
    pool.guidance = None if saved["guidance"] is None else Guidance(**saved["guidance"])
    pool.shrink, pool.progress = saved["shrink"], saved["progress"]
    if saved["maps"] is not None:
        pool.regions.maps.restore(saved["maps"], device)


def _placed(value: Any, present: Any, like: Tensor) -> Any:
    """A value with its tensors where the replayed run has them, or where the state is."""
    if isinstance(value, Tensor):
        if isinstance(present, Tensor):
            return value.to(present.device)
        return value.to(like.device) if value.ndim == like.ndim else value
    if isinstance(value, list | tuple):
        others = present if isinstance(present, list | tuple) else ()
        padded = [*others, *[None] * len(value)]
        return type(value)(
            _placed(item, other, like) for item, other in zip(value, padded, strict=False)
        )
    return value


def _less(asked: int | None, used: int | None) -> int | None:
    """The smaller micro-batch: memory that ran out before would run out again."""
    return min((size for size in (asked, used) if size is not None), default=None)

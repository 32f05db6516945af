"""Whether a snapshot holds the state of a run: types, shapes and ranges, before any is used.

A checksum shows damage and binds no stranger: whoever writes a file can write a right one.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.result import Cost, Trace

__all__ = ["check_fit", "check_state"]

_STATE = (
    "position", "calls", "moves", "output", "scheduler", "generators", "parents", "origin",
    "replaced", "micro_batch", "pool", "engine", "cost",
)  # fmt: skip
_ENGINE = ("log_w", "streams", "states", "twists")
_ENTRY = ("rows", *(each.name for each in fields(Trace)))
_COST = tuple(each.name for each in fields(Cost))
_COUNTS = ("denoiser_evaluations", "decodes", "exchanged_bytes")


def check_state(saved: Any, history: Sequence[Any], shards: Shards) -> None:
    """Refuse what can't be a state of a run with these particles.

    Arguments:
        saved: What stands in the place of a `state_of`.
        history: What stands in the place of each transition's record.
        shards: The particles.

    Raises:
        ValueError: With the entry, the rule and what is there.
    """
    _keys(saved, _STATE, "state")
    for name in ("position", "calls", "moves"):
        _count(saved[name], name)
    _require(1 <= saved["moves"] == len(history), "moves", f"{len(history)}", saved["moves"])
    valid = saved["moves"] <= saved["position"] + 1 < saved["calls"]
    _require(valid, "position", f"in [{saved['moves'] - 1}, calls - 1)", saved["position"])
    for name in ("parents", "origin"):
        if saved[name] is not None or name == "origin":
            _check_rows(saved[name], name, shards)
    _require(isinstance(saved["replaced"], str | None), "replaced", "a text", saved["replaced"])
    if saved["micro_batch"] is not None:
        _count(saved["micro_batch"], "micro_batch", 1)
    _check_engine(saved["engine"], shards)
    _check_pool(saved["pool"])
    _check_cost(saved["cost"])
    for index, entry in enumerate(history):
        _check_entry(entry, index, shards)


def check_fit(saved: dict[str, Any], here: dict[str, Any], moved: int) -> None:
    """Refuse a state that passes `check_state` and is of another pipeline, scheduler or terms.

    Arguments:
        saved: The state.
        here: That of the replayed run at the same call.
        moved: Transitions that the replayed run has made.

    Raises:
        ValueError: With the entry, the rule and what is there.
    """
    _require(saved["moves"] == moved, "moves", f"{moved}", saved["moves"])
    for name in ("output", "scheduler", "generators"):
        _alike(saved[name], here[name], name)
    pools = saved["pool"], here["pool"]
    _require((pools[0] is None) == (pools[1] is None), "pool", "of the same terms", pools[0])
    if here["pool"] is not None:
        maps = [pool["maps"] is None for pool in pools]
        _require(maps[0] == maps[1], "pool.maps", "of the same terms", pools[0]["maps"])
    for name in ("streams", "twists"):
        _alike(saved["engine"][name], here["engine"][name], f"engine.{name}")
    states, fresh = saved["engine"]["states"], here["engine"]["states"]
    _require(len(states) == len(fresh), "engine.states", "one of each term", states)
    for place, (state, start) in enumerate(zip(states, fresh, strict=True)):
        _check_term(state, start, f"engine.states.{place}")


def _check_engine(engine: Any, shards: Shards) -> None:
    shape = shards.prompts, shards.particles
    _keys(engine, _ENGINE, "engine")
    _check_logs(engine["log_w"], "engine.log_w", shape)
    alive = (engine["log_w"] > -math.inf).any(1).all()
    _require(bool(alive), "engine.log_w", "above -inf for a particle", engine["log_w"])
    for name in ("streams", "states", "twists"):
        _require(type(engine[name]) is list, f"engine.{name}", "a list", engine[name])
    for place, twist in enumerate(engine["twists"]):
        _check_logs(twist, f"engine.twists.{place}", shape)
    for place, state in enumerate(engine["states"]):
        for name, value in _dict(state, f"engine.states.{place}").items():
            rows = isinstance(value, Tensor) and value.ndim and len(value) == shape[0] * shape[1]
            _require(bool(rows), f"engine.states.{place}.{name}", "a row a particle", value)


def _check_entry(entry: Any, index: int, shards: Shards) -> None:
    """The record of a transition."""
    shape, name = (shards.prompts, shards.particles), f"trace.{index}"
    _keys(entry, _ENTRY, name)
    _require(entry["index"] == index, f"{name}.index", f"{index}", entry["index"])
    for part in ("alpha", "sigma"):
        _number(entry[part], f"{name}.{part}")
    if entry["rows"] is not None:
        _check_rows(entry["rows"], f"{name}.rows", shards)
    _tensor(entry["ess"], f"{name}.ess", torch.float64, shape[:1])
    inside = (entry["ess"] > 0) & (entry["ess"] <= shape[1] * (1 + 1e-9))
    _require(bool(inside.all()), f"{name}.ess", f"in (0, {shape[1]}]", entry["ess"].tolist())
    _tensor(entry["resampled"], f"{name}.resampled", torch.bool, shape[:1])
    for reward, values in _dict(entry["rewards"], f"{name}.rewards").items():
        _tensor(values, f"{name}.rewards.{reward}", torch.float64, shape)
        _require(not values.isnan().any(), f"{name}.rewards.{reward}", "numbers", values)
    if entry["variance"] is not None:
        _tensor(entry["variance"], f"{name}.variance", torch.float64, shape[:1])


def _check_pool(pool: Any) -> None:
    if pool is None:
        return
    _keys(pool, ("guidance", "shrink", "progress", "maps"), "pool")
    for name in ("shrink", "progress"):
        _number(pool[name], f"pool.{name}")
    guidance = pool["guidance"]
    if guidance is not None:
        _keys(guidance, ("halves", "cond", "g", "sign"), "pool.guidance")
        _number(guidance["g"], "pool.guidance.g")
        kinds = guidance["halves"], guidance["cond"], guidance["sign"]
        known = all(type(kind) is int for kind in kinds)
        known = known and kinds[0] in (1, 2) and kinds[1] in (0, 1) and kinds[2] in (-1, 1)
        _require(known, "pool.guidance", "a mixture of one or two predictions", kinds)
    if pool["maps"] is not None:
        _keys(pool["maps"], ("sums", "counts"), "pool.maps")
        for name, sums in pool["maps"].items():
            _require(type(sums) is list, f"pool.maps.{name}", "a list", sums)
            for item in sums:
                valid = type(item) in (list, tuple) and len(item) == 3
                valid = valid and isinstance(item[2], Tensor) and type(item[0]) is str
                _require(bool(valid), f"pool.maps.{name}", "kind, size and sum", item)


def _check_cost(cost: Any) -> None:
    _keys(cost, _COST, "cost")
    for name in _COUNTS:
        _count(cost[name], f"cost.{name}")
    for name, value in _dict(cost["reward_calls"], "cost.reward_calls").items():
        _count(value, f"cost.reward_calls.{name}")
    seconds = _dict(cost["seconds"], "cost.seconds")
    _require("total" in seconds, "cost.seconds", "with a total", sorted(seconds))
    for name, value in seconds.items():
        _number(value, f"cost.seconds.{name}")
        _require(value >= 0, f"cost.seconds.{name}", "at least 0", value)
    if cost["peak_memory_mb"] is not None:
        _number(cost["peak_memory_mb"], "cost.peak_memory_mb")


def _check_rows(rows: Any, name: str, shards: Shards) -> None:
    """Rows of the run, each of its own prompt."""
    _tensor(rows, name, torch.int64, (shards.prompts * shards.particles,))
    prompt = shards.everyone // shards.particles
    inside = (rows >= 0) & (rows // shards.particles == prompt)
    _require(bool(inside.all()), name, "rows of the same prompt", rows.tolist())


def _check_logs(values: Any, name: str, shape: tuple[int, int]) -> None:
    _tensor(values, name, torch.float64, shape)
    _require(not (values.isnan() | values.isposinf()).any(), name, "numbers below inf", values)


def _check_term(state: dict[str, Any], start: dict[str, Any], name: str) -> None:
    """The state of a term, which may have got more entries than it began with."""
    _require(state.keys() >= start.keys(), name, f"with {', '.join(start)}", list(state))
    for entry, value in start.items():
        _alike(state[entry], value, f"{name}.{entry}")
        nan = state[entry].isnan().any() and not value.isnan().any()
        _require(not nan, f"{name}.{entry}", "numbers", state[entry])


def _alike(value: Any, here: Any, name: str) -> None:
    """Refuse a value that differs from that of the replayed run in more than its numbers."""
    if isinstance(here, Tensor):
        _tensor(value, name, here.dtype, tuple(here.shape))
        return
    _require(type(value) is type(here), name, f"of type {type(here).__name__}", value)
    if isinstance(here, dict):
        _keys(value, tuple(here), name)
        for key in here:
            _alike(value[key], here[key], f"{name}.{key}")
    elif isinstance(here, list | tuple):
        _require(len(value) == len(here), name, f"of length {len(here)}", value)
        for place, item in enumerate(here):
            _alike(value[place], item, f"{name}.{place}")
    elif not isinstance(here, float):
        _require(value == here, name, repr(here), value)


def _dict(value: Any, name: str) -> dict[str, Any]:
    _require(type(value) is dict, name, "a dictionary", value)
    return value


def _keys(value: Any, names: Sequence[str], name: str) -> None:
    found = _dict(value, name)
    changed = sorted(found.keys() ^ set(names))
    _require(not changed, name, f"of {', '.join(names)}", f"others ({', '.join(changed)})")


def _tensor(value: Any, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    valid = isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == shape
    _require(valid, name, f"{dtype} of shape {shape}", value)


def _count(value: Any, name: str, least: int = 0) -> None:
    _require(type(value) is int and value >= least, name, f"a number from {least} on", value)


def _number(value: Any, name: str) -> None:
    valid = type(value) in (int, float) and math.isfinite(value)
    _require(valid, name, "a finite number", value)


def _require(valid: bool, name: str, rule: str, value: Any) -> None:
    if not valid:
        if isinstance(value, Tensor):
            value = f"{value.dtype} of shape {tuple(value.shape)}: {value.flatten()[:4].tolist()}"
        raise ValueError(f"{name} must be {rule}, got {value!s:.80}")

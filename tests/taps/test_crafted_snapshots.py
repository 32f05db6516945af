"""Snapshots whose checksum is right and whose state is none: refused with a reason."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fkdiff.taps.snapshot_file import read_tree, write_tree
from fkdiff.taps.snapshots import SnapshotError, Snapshots
from tests.taps.setups import shared
from tests.taps.test_snapshots import Killed, Toy, steered

CALL = {"num_inference_steps": 5}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A toy pipeline, the snapshot that it left after three of five steps, and what it holds."""
    folder = tmp_path_factory.mktemp("kept")
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    with pytest.raises(Killed):
        steered(pipe, killed=3, keep=folder)(**CALL)
    file = Snapshots(folder).file
    return pipe, file, read_tree(file)


def put(tree, path, change):
    """The tree with what is at a path changed; `change` may be a value or a function of it."""
    *way, last = path.split("/")
    place = tree
    for name in way:
        place = place[int(name) if isinstance(place, list | tuple) else name]
    last = int(last) if isinstance(place, list) else last
    if change is GONE:
        del place[last]
    else:
        place[last] = change(place[last]) if callable(change) else change


GONE = object()


def copied(tree) -> Any:
    if isinstance(tree, dict):
        return {name: copied(value) for name, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def spoilt(path, value):
    return lambda tree: put(tree, path, value)


CASES = {
    **{f"no {name}": spoilt(name, GONE) for name in (
        "position", "calls", "moves", "output", "scheduler", "generators", "parents", "origin",
        "replaced", "micro_batch", "pool", "engine", "cost", "engine/log_w", "engine/streams",
        "engine/states", "engine/twists", "cost/seconds", "cost/decodes", "scheduler/timesteps",
    )},
    **{f"{name} is a text": spoilt(name, "much") for name in (
        "position", "calls", "moves", "output", "scheduler", "generators", "parents", "origin",
        "micro_batch", "pool", "engine", "cost", "engine/log_w", "engine/streams",
        "engine/states", "engine/twists", "cost/seconds", "cost/decodes", "output/prev_sample",
        "generators/0", "engine/twists/0", "engine/states/0", "cost/seconds/total",
        "scheduler/timesteps",
    )},
    "weights of nan": spoilt("engine/log_w", lambda w: w * math.nan),
    "one weight of nan": spoilt("engine/log_w", lambda w: torch.where(w == w[0, 0], math.nan, w)),
    "a weight of infinity": spoilt("engine/log_w", lambda w: w + math.inf),
    "no weight": spoilt("engine/log_w", lambda w: w - math.inf),
    "weights in float32": spoilt("engine/log_w", lambda w: w.float()),
    "weights of four": spoilt("engine/log_w", torch.zeros(1, 4, dtype=torch.float64)),
    "weights on end": spoilt("engine/log_w", lambda w: w.T),
    "a twist of nan": spoilt("engine/twists/0", lambda t: t * math.nan),
    "a state of nan": spoilt("engine/states/0/twist", lambda t: t * math.nan),
    "a state of two": spoilt("engine/states/0/share", lambda t: t[:2]),
    "no twists": spoilt("engine/twists", []),
    "no states": spoilt("engine/states", []),
    "a row out of range": spoilt("origin", torch.tensor([0, 1, 3])),
    "a row below 0": spoilt("origin", torch.tensor([0, 1, -1])),
    "rows that are no whole numbers": spoilt("origin", torch.tensor([0.0, 1.0, 2.0])),
    "too few rows": spoilt("parents", torch.tensor([0, 1])),
    "parents out of range": spoilt("parents", torch.tensor([0, 9, 1])),
    "a step below 0": spoilt("position", -1),
    "a step too late": spoilt("position", 4),
    "a step earlier": spoilt("position", 1),
    "a step that is true": spoilt("moves", True),
    "fewer transitions": spoilt("moves", 2),
    "no particle at once": spoilt("micro_batch", 0),
    "two generators": spoilt("generators", lambda g: g[:2]),
    "half a generator": spoilt("generators/1", lambda g: g[:2000]),
    "a generator of zeros": spoilt("generators/1", lambda g: torch.zeros_like(g)),
    "a state of another size": spoilt("output/prev_sample", lambda x: x[:, :, :2]),
    "a state of another type": spoilt("output/prev_sample", lambda x: x.long()),
    "a foreign output": spoilt("output/evil", torch.zeros(3)),
    "a scheduler's method": spoilt("scheduler/step", 5),
    "a scheduler's class": spoilt("scheduler/__class__", "evil"),
    "a scheduler's count": spoilt("scheduler/num_inference_steps", 7),
    "timesteps of another size": spoilt("scheduler/timesteps", lambda t: t[:2]),
    "a pool for no terms": spoilt(
        "pool", {"guidance": None, "shrink": 1.0, "progress": 0.5, "maps": None}
    ),
    "seconds of nan": spoilt("cost/seconds/total", math.nan),
    "seconds below 0": spoilt("cost/seconds/total", -1.0),
    "a foreign cost": spoilt("cost/time", 1),
    "decodes below 0": spoilt("cost/decodes", -4),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_state_that_is_none_is_refused(kept, case):
    pipe, file, (tree, about) = kept
    made = copied(tree)
    CASES[case](made)
    write_tree(file, made, about)
    with pytest.raises(SnapshotError, match=r"snapshot\.safetensors .*(must be|Invalid|another)"):
        steered(pipe, keep=file.parent)(**CALL)


def test_the_state_itself_is_accepted(kept):
    """A check that refused everything would show nothing."""
    pipe, file, (tree, about) = kept
    write_tree(file, copied(tree), about)
    rest = steered(pipe, keep=file.parent)(**CALL).steering
    assert rest.latents.equal(steered(pipe)(**CALL).steering.latents)
    write_tree(file, tree, about)  # the run kept its own


ENTRIES = {
    "a row out of range": spoilt("0/rows", torch.tensor([0, 1, 7])),
    "another index": spoilt("1/index", 5),
    "a weight of nan": spoilt("2/ess", torch.tensor([math.nan]).double()),
    "an effective size of nine": spoilt("2/ess", torch.tensor([9.0]).double()),
    "numbers for truth": spoilt("0/resampled", torch.zeros(1)),
    "another shape": spoilt("1/rewards/bright", torch.zeros(3).double()),
    "a reward of nan": spoilt("1/rewards/bright", lambda r: r * math.nan),
    "a list of rewards": spoilt("1/rewards", []),
    "a level of nan": spoilt("1/alpha", math.nan),
    "a level in words": spoilt("1/sigma", "much"),
    "no effective size": spoilt("0/ess", GONE),
    "a text": spoilt("1", "all is well"),
    "too few": lambda entries: entries.pop(),
    "none": lambda entries: entries.clear(),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_a_trace_that_is_none_is_refused(kept, case):
    from fkdiff.taps.trace_chunks import TraceChunks

    pipe, file, (tree, about) = kept
    entries = copied(TraceChunks(file).read(tree["trace"]))
    ENTRIES[case](entries)
    write_tree(file, {**tree, "trace": TraceChunks(file).append(entries)}, about)
    with pytest.raises(SnapshotError, match=r"holds no run: .* must be .*delete it to start anew"):
        steered(pipe, keep=file.parent)(**CALL)


BYTES = torch.arange(40, dtype=torch.uint8)
NAMES = {
    "strange bytes": {"files": [], "recent": BYTES},
    "bytes of an endless entry": {"files": [], "recent": torch.full((40,), 255).byte()},
    "numbers": {"files": [], "recent": BYTES.float()},
    "no bytes": {"files": [], "recent": None},
    "no list": {"files": 5, "recent": BYTES},
    "a number for a file": {"files": [5], "recent": BYTES[:0]},
    "a way out": {"files": ["../../../../../../etc/passwd/aaaa"], "recent": BYTES[:0]},
    "a file that isn't there": {"files": ["0" * 32], "recent": BYTES[:0]},
    "nothing": None,
    "a list": [0, 20],
}


@pytest.mark.parametrize("case", NAMES)
def test_a_snapshot_that_names_no_trace_is_refused(kept, case):
    pipe, file, (tree, about) = kept
    write_tree(file, {**tree, "trace": NAMES[case]}, about)
    with pytest.raises(SnapshotError, match="trace of .* is damaged|0.trace doesn't exist"):
        steered(pipe, keep=file.parent)(**CALL)


@pytest.mark.parametrize("settings", [None, [], "seed", {}], ids=str)
def test_settings_that_are_none_are_refused(kept, settings):
    pipe, file, (tree, about) = kept
    write_tree(file, tree, {**about, "settings": settings})
    with pytest.raises(SnapshotError, match="tells no settings|is of another run"):
        steered(pipe, keep=file.parent)(**CALL)


def paths(tree, way=()):
    """Every place of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in items:
        yield (*way, str(name))
        if isinstance(value, dict | list):
            yield from paths(value, (*way, str(name)))


ODD = st.sampled_from([
    None, True, -1, 2**70, 1e308, math.nan, "", "evil", [], {}, [1], {"a": 1}, GONE,
    torch.zeros(0), torch.ones(3, dtype=torch.int64), torch.tensor(math.nan), torch.zeros(1, 3),
])  # fmt: skip


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_odd_things_anywhere_are_refused_or_change_nothing(kept, data):
    """Whatever stands wherever: a reason, or a run that ends; never another exception."""
    pipe, file, (tree, about) = kept
    made = copied(tree)
    path = data.draw(st.sampled_from(sorted("/".join(way) for way in paths(made))))
    put(made, path, data.draw(ODD))
    write_tree(file, made, about)
    try:
        steered(pipe, keep=file.parent)(**CALL)
    except SnapshotError as error:
        assert "start anew" in str(error) or "another" in str(error), error

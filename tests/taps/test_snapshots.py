"""A run that ends anywhere goes on from its last finished step, to the last bit."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from safetensors.torch import load_file, safe_open, save_file

from fkdiff import (
    Anneal,
    Correct,
    Cutout,
    Product,
    Resample,
    RLGuidance,
    Tilt,
    as_reward,
    steer,
)
from fkdiff.taps import TapError, snapshots, weights
from fkdiff.taps.snapshot_file import fits, read_tree, write_tree
from fkdiff.taps.snapshots import SnapshotError, Snapshots
from fkdiff.taps.trace_chunks import TraceChunks, chunks_of
from fkdiff.taps.weights import weights_mark
from tests.taps.pools import nudged
from tests.taps.scheduler_cases import CASES
from tests.taps.setups import CALL, Watching, as_tensor, shared
from tests.taps.test_token_pipelines import llada
from tests.taps.toy import ToyPipeline
from tests.tiny import build

BRIGHT = as_reward(lambda z: z.flatten(1).mean(1), name="bright", inputs="latents")
OFTEN = Resample("multinomial", ess=1.0, window=(0, 1))


class Killed(Exception):
    """What ends a run in these tests; nothing of the package catches it."""


class Toy(ToyPipeline):
    """The toy loop with an output that can be steered from outside."""

    def __call__(self, batch_size=1, num_inference_steps=6, generator=(), latents=None) -> Any:
        out = super().__call__(batch_size, num_inference_steps, generator, latents)
        return ImagePipelineOutput(images=out.images)


def killed_at(index) -> Any:
    """A term that ends the run during a transition; None never."""

    def action(step):
        if step.index == index:
            raise Killed

    return Watching(action)


def steered(pipe, *terms, killed=None, keep=None, scale=30.0, **more):
    settings = {"particles": 3, "seed": 5, "select": "all", "resample": OFTEN, **more}
    return steer(pipe, *terms, Tilt(BRIGHT, scale), killed_at(killed), **settings, keep=keep)


def same(one: Any, other: Any):
    """Whether two results agree in everything that isn't a time."""
    for name in ("latents", "log_w", "log_twist", "selected"):
        assert getattr(one, name).equal(getattr(other, name)), name
    assert (one.samples is None) == (other.samples is None)
    assert one.samples is None or one.samples.equal(other.samples)
    assert one.complete and other.complete
    for a, b in zip(one.rows, other.rows, strict=True):
        assert b is None if a is None else b is not None and a.equal(b)
    for a, b in zip(one.trace, other.trace, strict=True):
        assert (a.index, a.alpha, a.sigma) == (b.index, b.alpha, b.sigma)
        assert a.ess.equal(b.ess) and a.resampled.equal(b.resampled)
        assert all(a.rewards[k].equal(b.rewards[k]) for k in {**a.rewards, **b.rewards})
    for name in ("denoiser_evaluations", "decodes", "reward_calls"):
        assert getattr(one.cost, name) == getattr(other.cost, name), name
    kept = [{k: v for k, v in r.settings.items() if k != "terms"} for r in (one, other)]
    assert kept[0] == kept[1]  # terms of these tests have their address in their name
    return True


def goes_on(pipe, call, *terms, at, folder, **more):
    """Kill a run during transition `at`, go on in the same folder; gives both results."""
    whole = steered(pipe, *terms, **more)(**call)
    with pytest.raises(Killed):
        steered(pipe, *terms, killed=at, keep=folder, **more)(**call)
    rest = steered(pipe, *terms, keep=folder, **more)(**call)
    return whole, rest


def chosen():
    """A configuration of every scheduler that tells estimates, with history where it has one."""
    found = {}
    for case in CASES:
        if case.estimates and not (case.name in found and found[case.name].remembers):
            found[case.name] = case if case.remembers or case.noisy else found.get(case.name, case)
    return list(found.values())


@pytest.mark.parametrize("case", chosen(), ids=str)
def test_every_solver_finds_its_history_again(case, tmp_path):
    pipe = Toy(case.pipe().scheduler, case.step)
    # Two that can't take stochastic steps: between their levels, and from noise alone.
    own = case.name in ("KDPM2DiscreteScheduler", "IPNDMScheduler")
    more = {"resample": None} if own else {"stochastic": False} if case.noisy else {}
    whole, rest = goes_on(pipe, {"num_inference_steps": 6}, at=3, folder=tmp_path, **more)
    assert whole.images.equal(rest.images)
    assert same(whole.steering, rest.steering)


ENGINE = ("log_w", "streams", "states", "twists")


@pytest.mark.parametrize("part", ("scheduler", "generators", "lineage", "trace", *ENGINE))
def test_each_part_of_a_snapshot_is_needed(part, tmp_path, monkeypatch):
    """A comparison that nothing could fail would show nothing: each part is left out in turn."""
    case = next(c for c in chosen() if c.name == "SASolverScheduler")
    pipe = Toy(case.pipe().scheduler, case.step)
    usual = snapshots.restore

    def forgetful(tap, call, saved, history):
        own = {
            "scheduler": {n: v for n, v in vars(call.scheduler).items() if fits(v)},
            "generators": [torch.Generator().manual_seed(0).get_state()] * len(tap.generators),
        }
        fresh = tap.engine.state()
        if part in ENGINE:
            own["engine"] = {**saved["engine"], part: fresh[part]}
        place = "engine" if part in ENGINE else part
        pasts = {"trace": [], "lineage": [{**entry, "rows": None} for entry in history]}
        left_out = {} if part in pasts else {place: own[place]}
        usual(tap, call, {**saved, **left_out}, pasts.get(part, history))

    monkeypatch.setattr(snapshots, "restore", forgetful)
    terms = [Tilt(as_reward(lambda x: x.flatten(1).sum(1).sin(), inputs="latents"), 2.0, "max")]
    often = Resample("multinomial", ess=1, window=(0, 1))
    more = {"select": "sample", "resample": often, "scale": 3.0}
    call = {"num_inference_steps": 6}
    whole, rest = goes_on(pipe, call, *terms, at=3, folder=tmp_path, **more)
    one, other = whole.steering, rest.steering
    noticed = {
        "lineage": [r is None for r in one.rows] != [r is None for r in other.rows],
        "trace": len(one.trace) != len(other.trace),
    }
    compared = ("latents", "log_w", "selected")
    changed = not all(getattr(one, name).equal(getattr(other, name)) for name in compared)
    assert noticed.get(part, changed)


PIPELINES = (
    "sd", "dit", "flux_cfg", "ddpm", "stable_audio", "wan", "ltx", "zimage", "sd_img2img",
    "sd_inpaint_9", "sd_controlnet", "lcm", "sd3_modular",
)  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_every_kind_of_loop_is_found_again(name, tmp_path):
    tiny = shared(name)
    call = {**CALL, **tiny.call, "num_inference_steps": 4}
    whole, rest = goes_on(tiny.pipe, call, at=2, folder=tmp_path)
    assert same(whole.steering, rest.steering)
    assert any(rows is not None for rows in whole.steering.rows[:2])  # before the kill


def pools():
    tuned = nudged(shared("sd").pipe.unet)
    return {
        "guidance": [RLGuidance(tuned, 1.5)],
        "corrected": [Correct(), Anneal(1.2), Product("a dog", 0.3)],
        "product": [Product("a dog", 0.5, against="uncond")],
        "cut out": [Cutout()],
        "both": [RLGuidance(tuned, 0.7), Correct()],
    }


@pytest.mark.filterwarnings("ignore:.*steps")
@pytest.mark.parametrize(
    ("name", "at"),
    [("guidance", 1), ("corrected", 1), ("product", 2), ("cut out", 2), ("both", 3)],
)
def test_pools_and_correctors_go_on(name, at, tmp_path):
    tiny = shared("sd")
    call = {**tiny.call, "num_inference_steps": 4, "output_type": "pt"}
    whole, rest = goes_on(tiny.pipe, call, *pools()[name], at=at, folder=tmp_path)
    assert same(whole.steering, rest.steering)


TILTS = {
    "max": {"potential": "max"},
    "adaptive": {"schedule": "adaptive"},
    "draws": {"draws": 2},
}


@pytest.mark.parametrize("tilt", TILTS)
def test_states_of_terms_prompts_and_selection_go_on(tilt, tmp_path):
    tiny = shared("sd")
    call = {**CALL, **tiny.call, "prompt": ["a cat", "a dog"], "num_inference_steps": 4}
    pixels = as_reward(lambda x: x.mean((1, 2, 3)), name="pixels")
    more = {"select": "sample", "monitor": [pixels], "micro_batch": 2}
    term = Tilt(pixels, 20.0, **TILTS[tilt])
    whole, rest = goes_on(tiny.pipe, call, term, at=2, folder=tmp_path, **more)
    assert same(whole.steering, rest.steering)
    assert as_tensor(whole).equal(as_tensor(rest))


def test_killed_at_every_step_in_turn(tmp_path):
    tiny = shared("sd")
    call = {**tiny.call, "num_inference_steps": 4, "output_type": "pt"}
    whole = steered(tiny.pipe)(**call)
    for at in (1, 2, 3):
        again = steered(tiny.pipe, killed=at, keep=tmp_path)
        with pytest.raises(Killed):
            again(**call)
        assert again.partial is not None
        assert [entry.index for entry in again.partial.trace] == list(range(at))
    rest = steered(tiny.pipe, keep=tmp_path)(**call)
    assert same(whole.steering, rest.steering)
    network = shared("sd").pipe.unet
    assert type(network).__name__ == "UNet2DConditionModel" and "__call__" not in vars(network)


def test_saves_as_often_as_asked(tmp_path):
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    place = Snapshots(tmp_path, every=3)
    with pytest.raises(Killed):
        steered(pipe, killed=5, keep=place)(num_inference_steps=8)
    tree, about = read_tree(place.file)
    assert (tree["position"], tree["moves"]) == (2, 3)
    assert len(TraceChunks(place.file).read(tree["trace"])) == 3
    assert about["settings"]["seed"] == 5
    fresh = steered(pipe, keep=replace(place, fresh=True))
    fresh(num_inference_steps=8)
    assert read_tree(place.file)[0]["moves"] == 6
    place.forget()
    place.forget()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def kept(tmp_path):
    """A toy pipeline, and the snapshot that it left."""
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    with pytest.raises(Killed):
        steered(pipe, killed=2, keep=tmp_path)(num_inference_steps=5)
    return pipe, Snapshots(tmp_path).file


OTHERS = {
    "particles": ({"particles": 4}, {}, "particles: 3 there, 4 here"),
    "seed": ({"seed": 6}, {}, "seed: 5 there, 6 here"),
    "resample": ({"resample": None}, {}, "resample"),
    "steps": ({}, {"num_inference_steps": 6}, "call"),
    "latents": ({}, {"latents": torch.ones(3, 2, 4, 4)}, "call"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_run_is_refused(kept, case):
    pipe, file = kept
    more, call, told = OTHERS[case]
    with pytest.raises(SnapshotError, match=f"is of another run .*{told}"):
        steered(pipe, keep=file.parent, **more)(**{"num_inference_steps": 5, **call})
    assert file.is_file()


def test_other_weights_are_refused(tmp_path):
    tiny = build("sd")
    call = {**tiny.call, "num_inference_steps": 3, "output_type": "latent"}
    with pytest.raises(Killed):
        steered(tiny.pipe, killed=1, keep=tmp_path)(**call)
    weight = next(tiny.pipe.vae.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[-1] += 0.25
    with pytest.raises(SnapshotError, match="was made with other weights of the model"):
        steered(tiny.pipe, keep=tmp_path)(**call)
    with torch.no_grad():
        weight.copy_(before)
    assert steered(tiny.pipe, keep=tmp_path)(**call).steering.complete


@pytest.mark.parametrize("whole", (True, False))
def test_a_mark_tells_weights_apart(whole, monkeypatch):
    monkeypatch.setattr(weights, "_WHOLE", 2**20 if whole else 0)
    last = torch.nn.Linear(40, 40, bias=False)
    net = torch.nn.Sequential(torch.nn.Linear(40, 40), last)
    mark, held = weights_mark([net, object()]), last.weight.detach().clone()
    assert weights_mark([net, object()]) == mark != weights_mark([net, net])
    with torch.no_grad():
        last.weight[0, 1] += 1  # between the numbers that are read of many
    assert (weights_mark([net, object()]) == mark) is not whole
    with torch.no_grad():
        last.weight.copy_(1.001 * held)
    assert weights_mark([net, object()]) != mark
    assert weights_mark([net.half(), object()]) != mark


def rewritten(file, change):
    with safe_open(file, "pt") as opened:
        head = dict(opened.metadata())
    tensors = load_file(file)
    change(head, tensors)
    save_file(tensors, file, head)


DAMAGES = {
    "cut off": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is damaged"),
    "empty": (lambda f: f.write_bytes(b""), "is damaged"),
    "text": (lambda f: f.write_text("pickle?"), "is damaged"),
    "a bit": (lambda f: f.write_bytes(f.read_bytes()[:-1] + b"\x01"), "checksum"),
    "version": (
        lambda f: rewritten(f, lambda head, _: head.update(version="99")),
        "version 99 of the format, this fkdiff reads 2",
    ),
    "foreign": (lambda f: save_file({"a": torch.ones(1)}, f), "is no snapshot of fkdiff"),
    "settings": (
        lambda f: rewritten(f, lambda head, _: head.update(about="{}")), "checksum"
    ),
    "no tree": (lambda f: rewritten(f, lambda head, _: head.pop("tree")), "is damaged"),
    "a tensor": (lambda f: rewritten(f, lambda _, tensors: tensors.pop("00000")), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_files_are_refused(kept, damage):
    pipe, file = kept
    harm, told = DAMAGES[damage]
    harm(file)
    with pytest.raises(SnapshotError, match=told):
        steered(pipe, keep=file.parent)(num_inference_steps=5)


def test_keep_is_refused_where_nothing_could_go_on(tmp_path):
    with pytest.raises(ValueError, match="seed must be given with keep"):
        steer(shared("sd").pipe, keep=tmp_path)(**shared("sd").call)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Snapshots(tmp_path, every=0)
    with pytest.raises(TapError, match="keep must be None for LLaDA2Pipeline"):
        steer(llada(), keep=tmp_path, seed=0)


def test_a_full_disk_leaves_the_older_snapshot(kept, monkeypatch):
    pipe, file = kept
    before = file.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fkdiff.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        steered(pipe, keep=file.parent)(num_inference_steps=5)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]
    monkeypatch.undo()
    whole = steered(pipe)(num_inference_steps=5)
    assert same(whole.steering, steered(pipe, keep=file.parent)(num_inference_steps=5).steering)


def test_a_save_writes_as_much_at_every_step(tmp_path, monkeypatch):
    """What earlier steps left stays on the disk as it is."""
    written, usual = [], os.fsync

    def counted(number):
        written.append(os.fstat(number).st_size)
        usual(number)

    monkeypatch.setattr("fkdiff.files.os.fsync", counted)
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    steered(pipe, keep=tmp_path)(num_inference_steps=130)
    assert len(chunks_of(Snapshots(tmp_path).file)) == 4
    assert max(written[-40:]) < 1.1 * max(written[:40])


@pytest.mark.parametrize(
    "harm", (lambda f: f.unlink(), lambda f: f.write_bytes(f.read_bytes()[:-9]))
)
def test_a_trace_that_is_gone_or_cut_off_is_refused(harm, tmp_path):
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    with pytest.raises(Killed):
        steered(pipe, killed=40, keep=tmp_path)(num_inference_steps=50)
    harm(chunks_of(Snapshots(tmp_path).file)[0])
    with pytest.raises(SnapshotError, match="doesn't exist|the checksum of .* is another"):
        steered(pipe, keep=tmp_path)(num_inference_steps=50)


@pytest.mark.parametrize("at", (31, 32, 33, 100))
def test_a_long_run_goes_on(at, tmp_path):
    """Over the ends of the files that hold its trace, also after an older run in the folder."""
    pipe = Toy(shared("sd").pipe.scheduler.from_config({"clip_sample": False}))
    with pytest.raises(Killed):  # what it leaves is of no use to the next one
        steered(pipe, killed=70, keep=Snapshots(tmp_path), seed=9)(num_inference_steps=110)
    call = {"num_inference_steps": 110}
    whole = steered(pipe)(**call)
    with pytest.raises(Killed):
        steered(pipe, killed=at, keep=Snapshots(tmp_path, fresh=True))(**call)
    rest = steered(pipe, keep=tmp_path)(**call)
    assert same(whole.steering, rest.steering)
    Snapshots(tmp_path).forget()
    assert not list(tmp_path.iterdir())


def test_time_goes_on_counting(tmp_path):
    """A resumed run's total holds what was spent before, as its stages do."""
    tiny = shared("sd")
    call = {**tiny.call, "num_inference_steps": 4, "output_type": "latent"}
    with pytest.raises(Killed):
        steered(tiny.pipe, killed=2, keep=tmp_path)(**call)
    tree, about = read_tree(Snapshots(tmp_path).file)
    spent = tree["cost"]["seconds"]
    assert spent["total"] >= spent["denoise"] > 0
    spent |= {"total": 1000.0, "denoise": 900.0}
    write_tree(Snapshots(tmp_path).file, tree, about)
    with pytest.raises(Killed):  # it also goes on over a second stop
        steered(tiny.pipe, killed=3, keep=tmp_path)(**call)
    seconds = steered(tiny.pipe, keep=tmp_path)(**call).steering.cost.seconds
    assert seconds["total"] > 1000 and 900 < seconds["denoise"] < seconds["total"]

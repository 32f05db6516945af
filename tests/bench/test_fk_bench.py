"""The FK bench end to end on a tiny pipeline and a judge of its own, which steering never sees."""

import json
from typing import ClassVar

import pytest
import torch

from fkdiff import as_reward, zoo
from fkdiff.bench import BenchRefused, fk, fk_tune, run_bench
from fkdiff.bench.fk import Plan, chosen_prompts, hard_kinds
from fkdiff.bench.fk_runs import Runner, Settings
from fkdiff.zoo.parse import parse
from tests.tiny import build

PLAN = Plan(prompts=2, seeds=2, tune=0, kinds=("pair",), scaled=1, sizes=(1, 2))


class Judging:
    """Passes what is brighter than most; the reward below knows the same, so that it helps."""

    calls = 0
    asked: ClassVar[set[str]] = set()

    def passes(self, images, prompts):
        Judging.asked |= set(prompts)
        Judging.calls += len(images)
        return (images.mean((1, 2, 3)) > 0.5).tolist()

    def features(self, images):
        return images.flatten(1)


def runner(samples=8):
    tiny = build("sd")
    reward = as_reward(lambda pixels: pixels.mean((1, 2, 3)), name="mean", mean=0.5, sd=0.01)
    made = Runner(tiny.pipe, reward, Judging(), Settings(steps=2, samples=samples, guidance=1.0))
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bench and the file that it keeps."""
    file = tmp_path_factory.mktemp("bench") / "new" / "fk.jsonl"
    return file, fk.run(quick=True, seed=3, resume=file, runner=runner(), plan=PLAN)


def test_every_field_is_there_and_finite(whole):
    file, told = whole
    arms = {"plain", "bon4", "bon8", "importance", "fk4", "fk8", "shuffled", "constant"}
    for field in ("pass_rate", "nfe", "seconds", "reward"):
        assert set(told[field]) == arms
    assert arms | {"fk4_minus_plain", "fk8_minus_bon8"} < set(told["ci"])
    assert told["nfe"]["fk4"] == told["nfe"]["bon4"] == 4 * told["nfe"]["plain"]
    assert set(told["monitor"]) == {"brightness", "colourfulness", "jpeg-size"}
    assert told["rows"] == 4 and told["prompts"] == 2 and told["kinds"] == ["pair"]
    json.dumps(told)
    assert file.with_suffix(".png").is_file()


def test_a_constant_reward_is_the_plain_run_and_fk_s_choice_its_best(whole):
    file, _ = whole
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    for runs in (line["part"] for line in lines if line["name"].startswith("arms")):
        assert runs["constant"]["chosen"] == 0 and runs["constant"]["ancestors"] == 4
        assert runs["constant"]["reward"] == pytest.approx(runs["sde"]["reward"][:4], abs=1e-5)
        assert runs["fk4"]["chosen"] == max(range(4), key=runs["fk4"]["reward"].__getitem__)
        assert runs["ode"]["reward"] != pytest.approx(runs["sde"]["reward"], abs=1e-5)


def test_a_stopped_bench_goes_on_and_ends_the_same(whole, tmp_path):
    file, told = whole
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 1 + 4 + 1
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:4]) + lines[4][:40])  # the last one was cut off
    calls = Judging.calls
    again = fk.run(quick=True, seed=3, resume=part, runner=runner(), plan=PLAN)
    assert Judging.calls - calls == (8 * 2 + 4 + 8 + 4 + 4) + (2 * 2 + 1 + 2)
    assert len(part.read_text().splitlines()) == len(lines)
    assert again["pass_rate"] == told["pass_rate"] and again["scaling"] == told["scaling"]
    calls = Judging.calls
    fk.run(quick=True, seed=3, resume=part, runner=runner(), plan=PLAN)
    assert Judging.calls == calls


def test_rows_of_other_settings_are_refused(whole):
    file, _ = whole
    before = file.read_text()
    with pytest.raises(BenchRefused, match=r"got others \(seed\)"):
        fk.run(quick=True, seed=4, resume=file, runner=runner(), plan=PLAN)
    assert file.read_text() == before


def test_kinds_are_chosen_on_tune_and_prompts_from_eval():
    assert hard_kinds({"single": 0.9, "pair": 0.5, "three": 0.2, "four": 0.1}) == ("pair", "three")
    assert hard_kinds({"single": 0.9, "four": 0.1}) == ("four",)
    prompts = chosen_prompts(("pair", "count"), 30)
    assert len(prompts) == len(set(prompts)) == 30
    assert set(prompts) < set(zoo.prompts("eval")) and not set(prompts) & set(zoo.prompts("tune"))
    assert {parse(p).kind for p in prompts} == {"pair", "count"}


def test_the_kinds_are_measured_on_every_prompt_of_tune(monkeypatch):
    monkeypatch.setattr(zoo, "prompts", lambda name: ["a cat and a dog on a red background"])
    plan = Plan(prompts=1, seeds=1, tune=2, scaled=0)
    told = fk.run(quick=True, seed=0, runner=runner(), plan=plan)
    assert set(told["tune_pass_rate"]) == {"pair"} == set(told["kinds"])


def test_missing_weights_are_refused_before_anything_is_written(monkeypatch, tmp_path):
    def absent():
        raise FileNotFoundError("model.safetensors")

    monkeypatch.setattr("fkdiff.zoo.judge.load_judge", absent)
    with pytest.raises(BenchRefused, match=r"fkdiff\.zoo\.train"):
        run_bench("fk", quick=True, seed=0, resume=tmp_path / "fk.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_bench_that_keeps_nothing_refuses_a_file(tmp_path):
    with pytest.raises(ValueError, match="resume must be None for memory"):
        run_bench("memory", quick=True, seed=0, resume=tmp_path)


def test_the_seed_is_each_prompt_s_own():
    seeds = {fk.seed_of(0, i, s) for i in range(50) for s in range(4)}
    assert len(seeds) == 200
    assert torch.Generator().manual_seed(max(seeds)).initial_seed() == max(seeds)


def test_settings_are_chosen_on_tune_alone(tmp_path):
    file = tmp_path / "tune.jsonl"
    Judging.asked.clear()
    told = fk_tune.run(quick=True, seed=1, resume=file, runner=runner())
    rows = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert len(rows) == 2 * (2 + 2)
    assert Judging.asked <= set(zoo.prompts("tune"))
    assert set(told["plain"]) == {"2", "3"} and len(told["fk4"]) == 2
    best = told["best"]
    assert told["plain"][f"{best['guidance']:g}"] == max(told["plain"].values())
    named = f"scale {best['scale']:g}, window 0.5 to 0.9"
    assert told["fk4"][named] == max(told["fk4"].values())
    calls = Judging.calls
    assert fk_tune.run(quick=True, seed=1, resume=file, runner=runner()) == told
    assert Judging.calls == calls

"""Loops of our own where memory runs out: fewer rows at once, the same numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fkdiff import (
    GumbelFlowPipeline,
    GumbelFlowScheduler,
    Resample,
    SimplexDenoiser,
    StraightThrough,
    Tilt,
    as_reward,
)
from fkdiff.policy import ChunkSampler, Levels, Recording, SteeredPolicy, WarmStart, calibrate
from fkdiff.result import Result
from fkdiff.sequences import sample_sequences
from tests.policy import toy as robots
from tests.sequences import toy

ALWAYS = Resample(ess=1.0, window=(0.0, 1.0))


class Hungry:
    """A function for which memory runs out above so many rows, None for never."""

    def __init__(self, usual, most: int | None, error: Exception | None = None) -> None:
        self.usual, self.most, self.rows = usual, most, list[int]()
        self.error = torch.OutOfMemoryError("CUDA out of memory.") if error is None else error

    def __call__(self, x: Tensor, *args, **keywords):
        self.rows.append(len(x))
        if self.most is not None and len(x) > self.most:
            raise self.error
        return self.usual(x, *args, **keywords)


def designed(net, guide, reward) -> Result:
    terms = (
        StraightThrough(as_reward(guide, name="g", inputs="simplex", differentiable=True), 0.5),
        Tilt(as_reward(lambda h: reward(h), name="r", inputs="simplex"), 2.0),
    )
    return sample_sequences(
        net, toy.PATH, *terms, lengths=[2, 2], particles=5, steps=6, resample=ALWAYS, seed=1
    )


def assert_same(found: Result, given: Result) -> None:
    assert torch.equal(found.latents, given.latents)
    assert torch.allclose(found.log_w, given.log_w, atol=1e-6)
    assert any(bool(entry.resampled.any()) for entry in given.trace)
    assert found.cost.denoiser_evaluations == given.cost.denoiser_evaluations
    assert found.cost.reward_calls == given.cost.reward_calls


@pytest.mark.parametrize("short", ["net", "guide", "reward"])
def test_designs_go_on_with_fewer_rows(short):
    usual = {"net": toy.net, "guide": toy.prize, "reward": toy.prize}
    given = designed(**usual)
    few = Hungry(usual[short], 3 if short != "guide" else 30)  # a guide sees ten draws a row
    found = designed(**{**usual, short: few})
    assert_same(found, given)
    assert max(few.rows) > (few.most or 0) and few.rows.count(max(few.rows)) == 1
    assert found.settings["micro_batch"] == 2
    assert found.settings["out_of_memory"] == "went on with micro_batch=2"
    assert given.settings["micro_batch"] == 256 and "out_of_memory" not in given.settings


def test_one_row_that_doesn_t_fit_and_other_errors_are_told():
    usual = {"net": toy.net, "guide": toy.prize, "reward": toy.prize}
    none = Hungry(toy.net, 0)
    with pytest.raises(torch.OutOfMemoryError):
        designed(**{**usual, "net": none})
    assert none.rows == [10, 5, 2, 1]
    other = Hungry(toy.net, 3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        designed(**{**usual, "net": other})
    assert other.rows == [10]


def test_a_plain_flow_goes_on_with_fewer_rows(monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SimplexDenoiser("ACGT", 8, width=16, layers=1, heads=2, classes=("x", "y")).eval()
        for part in (net.write, net.modulate, net.label):
            torch.nn.init.normal_(part.weight)
    pipe: Any = GumbelFlowPipeline(net, GumbelFlowScheduler(4))
    pipe.set_progress_bar_config(disable=True)

    def drawn(**more):
        call = {"length": [8, 3, 5, 1, 7], "class_label": ["x", "y", None, "x", "y"]}
        generator = torch.Generator().manual_seed(4)
        return pipe(5, num_inference_steps=4, generator=generator, **call, **more).sequences

    given = drawn()
    few = Hungry(net.forward, 3)
    monkeypatch.setattr(net, "forward", few)
    assert drawn() == given
    assert few.rows[:4] == [5, 2, 2, 1] and max(few.rows[1:]) == 2
    few.rows.clear()
    assert drawn(micro_batch=1) == given and set(few.rows) == {1}


def decided(net, reward) -> tuple[Tensor, SteeredPolicy]:
    levels = robots.ddpm()
    sampler = ChunkSampler(
        net, levels, (2, 1), WarmStart(start=30, evaluations=4), cold_evaluations=6
    )
    tilt = Tilt(as_reward(lambda actions: reward(actions), name="r", inputs="actions"), scale=4.0)
    policy = SteeredPolicy(sampler, tilt, particles=5, resample=ALWAYS, seed=2)
    chunks = [policy.decide(torch.tensor([[0.3], [-0.2]])).chunks for _ in range(2)]
    return torch.stack(chunks), policy


def ahead(actions: Tensor) -> Tensor:
    return actions.mean((1, 2))


@pytest.mark.parametrize("short", ["net", "reward"])
def test_steered_decisions_go_on_with_fewer_rows(short):
    usual = {"net": robots.Gaussian(robots.ddpm(), 0.3), "reward": ahead}
    given, _ = decided(**usual)
    few = Hungry(usual[short], 3)
    found, policy = decided(**{**usual, short: few})
    assert torch.equal(found, given)
    assert few.rows.count(10) == 1  # the decisions to come know what fits
    assert policy.sampler.micro_batch == 2


def test_plain_decisions_and_calibrations_go_on_with_fewer_rows():
    levels = Levels.of(robots.DDIMScheduler(**robots.COSINE))
    exact = robots.Gaussian(levels, 0.3)
    seen = torch.linspace(-1, 1, 7)[:, None]
    chunks, measured, rows = [], [], []
    for most in (None, 3):
        net = Hungry(exact, most)
        sampler = ChunkSampler(net, levels, (2, 1), WarmStart(start=30), seed=2)
        chunks.append(torch.stack([sampler.decide(seen).chunks for _ in range(2)]))
        recording = Recording(seen, torch.zeros(7, 2, 1))
        measured.append(calibrate(net, levels, [recording], draws=3, evaluations=4))
        rows.append(net.rows)
    assert torch.equal(chunks[0], chunks[1]) and measured[0] == measured[1]
    assert rows[0][:11] == [7] * 11  # ten cold, one warm
    assert rows[1].count(7) == 1 and max(rows[1]) == 18

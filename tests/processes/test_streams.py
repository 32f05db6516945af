"""Noise of slots: the same bits at any number of slots, processes and transitions."""

import pytest
import torch

from fkdiff import Grid, Tilt, as_reward, sample
from fkdiff.processes import streams
from tests.exact import assert_mean

SHAPES = pytest.mark.parametrize("shape", [(), (3,), (40, 30)], ids=str)


def drawn(slots, shape=(), prompts=2, seed: streams.Seed = 0, times=3, **more):
    """Noise of some transitions, (times, P, k, *shape)."""
    noise = streams.SlotNoise(seed, prompts, slots, shape, **more)
    found = torch.stack([noise.draw() for _ in range(times)])
    return found.reshape(times, prompts, len(slots), *shape)


@SHAPES
def test_a_slot_draws_the_same_in_any_company(shape):
    whole = drawn(range(2100 if shape == () else 400 if shape == (3,) else 5), shape)
    k = whole.shape[2]
    cuts = (0, 1, k // 3, k - 1, k)  # also within blocks, and those of one slot
    parts = [drawn(range(a, b), shape) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert torch.equal(torch.cat(parts, 2), whole)
    assert torch.equal(drawn(range(k), shape, prompts=1), whole[:, :1])
    alone = drawn(range(2), shape, seed=(7, 0))
    assert torch.equal(alone[:, 1:], whole[:, :1, :2])  # a prompt's own seed


def test_no_two_draws_agree():
    kinds = [{}, {"seed": 1}, {"purpose": "guidance"}, {"seed": (1, 2)}]
    # Two prompts that share a seed draw the same, as each does alone: hence no such pair here.
    values = torch.cat(
        [drawn(range(1500), dtype=torch.float64, **kind).flatten() for kind in kinds]
    )
    assert len(values.unique()) >= len(values) - 1500 * 3  # (1, ) and (1, 2) share prompt 0


def test_noise_is_standard_normal():
    values = drawn(range(3000), (2,), times=20, dtype=torch.float64).reshape(-1, 1)
    assert_mean(values, torch.zeros(1).double())
    assert_mean(values.square(), torch.ones(1).double())
    assert_mean(values[1:] * values[:-1], torch.zeros(1).double())


@pytest.mark.parametrize("shape", [(64,), (4, 8, 8), (3, 5, 5)], ids=str)
def test_a_slot_as_large_as_a_pipeline_s_draws_what_the_pipeline_draws(shape):
    """A stock call draws a row at a time from each row's generator, in every size."""
    stock = streams.slot_generators(7, 2, 3)
    ours = drawn(range(3), shape, seed=7)
    for step in ours:
        theirs = [torch.randn(shape, generator=generator) for generator in stock]
        assert torch.equal(step.flatten(0, 1), torch.stack(theirs))


def test_streams_are_few_where_particles_are_small(monkeypatch):
    """A generator holds 5 kB: one for each number would be a thousand times the state."""
    made, usual = [], torch.Generator

    def counted(*arguments):
        made.append(usual(*arguments))
        return made[-1]

    monkeypatch.setattr(torch, "Generator", counted)
    far = as_reward(lambda x: x[:, 0], name="far", inputs="latents")
    sample(lambda x, a, s: x, Grid.vp(4), Tilt(far), shape=(1,), particles=10_000, seed=0)
    assert len(made) <= 12

"""Prompts with seeds of their own: the bits of each drawn alone, in any company."""

import functools
from dataclasses import replace

import pytest
import torch

from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.report.snippet import python_of
from tests.taps.setups import CALL, SEED, shared

PROMPTS, SEEDS, PARTICLES = ["a cat", "a dog on a mat", "a key"], [5, 3, 5], 2
CALLS = {
    "sd": {"prompt": PROMPTS, "negative_prompt": ["grey", "a cat", "blue"]},
    "pixart": {"prompt": PROMPTS},
    "dit": {"class_labels": [1, 2, 3]},
}


def lights(inputs):
    rewards = {
        "first": lambda x: 40 * x[:, 0].flatten(1).mean(1),
        "mean": lambda x: x.mean((1, 2, 3)),
    }
    return [as_reward(f, name=name, inputs=inputs) for name, f in rewards.items()]


def drawn(name, call, seed, micro_batch: int | None = PARTICLES):
    """Every random stream and everything that prompts could share has a part in it."""
    tiny = shared(name)
    first, mean = lights(tiny.inputs)
    steered = steer(
        *(tiny.pipe, Tilt(first, scale=40, draws=2)),
        particles=PARTICLES,
        resample=Resample(ess=1, window=(0, 1)),
        micro_batch=micro_batch,
        monitor=[mean],
        select="sample",
        seed=seed,
    )
    return steered(**{**CALL, **tiny.call, **call}).steering


@functools.cache
def together(name):
    return drawn(name, CALLS[name], SEEDS)


@functools.cache
def alone(name, place):
    own = {key: values[place] for key, values in CALLS[name].items()}
    return drawn(name, own, SEEDS[place])


def differences(one, other):
    """Names of what isn't the same bit for bit."""
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in COMPARED}
    pairs |= {"rows": (lineage(one), lineage(other))}
    for key in ("ess", "resampled"):
        a, b = (torch.stack([getattr(entry, key) for entry in r.trace]) for r in (one, other))
        pairs[key] = a, b
    pairs |= {key: (one.rewards[key], other.rewards[key]) for key in ("first", "mean")}
    return {name for name, (a, b) in pairs.items() if not a.equal(b)}


def lineage(result):
    """Parents of every row at every transition, its own where none moved, (T, P K)."""
    own = torch.arange(result.log_w.numel())
    return torch.stack([own if rows is None else rows for rows in result.rows])


COMPARED = ("latents", "samples", "log_w", "log_twist", "log_z", "selected", "order")


@pytest.mark.parametrize("name", CALLS)
def test_a_prompt_is_the_same_in_any_company(name):
    parts = together(name).split()
    apart = [alone(name, place) for place in range(3)]
    for part, own in zip(parts, apart, strict=True):
        assert differences(part, own) == set()
        assert part.prompts == own.prompts and part.seed == own.seed
        assert part.target == own.target and "seeds" not in part.settings
    assert any(entry.resampled.any() for own in apart for entry in own.trace)
    # Results in each other's places, or of streams of a common seed, would be noticed.
    assert {"latents", "log_w", "samples"} <= differences(parts[0], apart[2])
    moved = next(own for own in apart if any(entry.resampled.any() for entry in own.trace))
    assert differences(moved, replace(moved, rows=[None] * len(moved.rows))) == {"rows"}
    if name == "dit":
        common = drawn(name, CALLS[name], SEEDS[0]).split()
        assert "latents" not in differences(common[0], apart[0])
        assert "latents" in differences(common[2], apart[2])


def test_one_row_at_a_time():
    parts = drawn("sd", CALLS["sd"], SEEDS, micro_batch=1).split()
    own = drawn("sd", {key: values[1] for key, values in CALLS["sd"].items()}, SEEDS[1], 1)
    assert differences(parts[1], own) == set()


def test_other_shapes_of_calls_change_the_rounding_alone():
    parts = drawn("sd", CALLS["sd"], SEEDS, micro_batch=None).split()
    for place, part in enumerate(parts):
        own = alone("sd", place)
        assert torch.allclose(part.latents, own.latents, atol=1e-4)
        assert torch.allclose(part.log_w, own.log_w, atol=1e-3)


@pytest.mark.parametrize(("seed", "rows"), [(SEEDS, 1), (SEED, 3)])
def test_texts_are_encoded_a_prompt_at_a_time(seed, rows):
    """With one seed the call is the stock one, to its rounding."""
    tiny, seen = shared("sd"), []
    hook = tiny.pipe.text_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        call = {**tiny.call, **CALLS["sd"], "num_inference_steps": 1, "output_type": "latent"}
        steer(tiny.pipe, particles=1, seed=seed)(**call)
    finally:
        hook.remove()
    assert [len(ids) for ids in seen] == [rows] * (6 // rows)
    if rows == 1:
        assert not seen[0].equal(seen[1])


def test_a_part_says_what_made_it():
    whole, own = together("sd"), alone("sd", 1)
    parts = whole.split()
    mine, other = dict(parts[1].settings), dict(own.settings)
    assert mine.pop("together") == "drawn with 2 other prompts; cost is an even share"
    listed = {"prompt": [PROMPTS[1]], "negative_prompt": ["a cat"]}
    assert mine.pop("call") == {**other.pop("call"), **listed}
    assert mine == other
    assert python_of(parts[1], "runs") == python_of(own, "runs")
    spent = [part.cost.denoiser_evaluations for part in parts]
    assert spent == [own.cost.denoiser_evaluations] * 3
    assert sum(part.cost.decodes for part in parts) == whole.cost.decodes
    assert (
        sum(part.cost.reward_calls["first"] for part in parts) == whole.cost.reward_calls["first"]
    )


def test_one_seed_a_prompt_or_a_particle():
    tiny = shared("sd")
    call = {**CALL, **tiny.call, **CALLS["sd"], "num_inference_steps": 2}
    with pytest.raises(ValueError, match=r"one for each prompt \(3\) or .* \(6\), got 2 numbers"):
        steer(tiny.pipe, particles=2, seed=[SEED, 1])(**call)

"""The state of a generator is the seed, and a list gives each prompt or each row its own."""

import pytest
import torch

from fkdiff import Resample, Result, Tilt, steer
from fkdiff.processes.streams import drawn_seed, slot_generators
from fkdiff.report.snippet import python_of
from tests.taps.setups import CALL, SEED, as_tensor, assert_near, brightness, shared
from tests.taps.test_token_pipelines import CALL as TOKENS
from tests.taps.test_token_pipelines import llada, twos

FAMILIES = ("sd", "flux", "dit", "cogvideox", "ddpm", "sd_img2img", "sd3_modular")
K = 3


def seeded(number=SEED):
    return torch.Generator().manual_seed(number)


def drawn(name, generator=None, particles=K, **more):
    tiny = shared(name)
    call = {**CALL, **tiny.call, **more}
    return steer(tiny.pipe, particles=particles, select="all")(**call, generator=generator)


def equal(one, other):
    return torch.equal(as_tensor(one), as_tensor(other))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_generator_in_a_loop(name):
    first, second = (seeded() for _ in range(2))
    ours, again = ([drawn(name, g) for _ in range(3)] for g in (first, second))
    for one, other in zip(ours, again, strict=True):
        assert equal(one, other)
    seeds = [out.steering.seed for out in ours]
    assert seeds[0] == SEED and len(set(seeds)) == 3
    assert not equal(ours[0], ours[1]) and not equal(ours[1], ours[2])
    tiny = shared(name)
    repeated = steer(tiny.pipe, particles=K, select="all", seed=seeds[1])(**{**CALL, **tiny.call})
    assert equal(repeated, ours[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_generator_goes_on_from_where_it_is(name):
    advanced = seeded()
    torch.randn(5, generator=advanced)
    state = advanced.get_state()
    out, fresh = drawn(name, advanced), drawn(name, seeded())
    assert not equal(out, fresh)
    assert equal(out, drawn(name, seeded().set_state(state)))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("advanced", [0, 4])
def test_a_generator_for_each_row_is_the_stock_call_s(name, advanced):
    tiny, lists = shared(name), [slot_generators(SEED, 1, K) for _ in range(2)]
    for generators in lists:
        for generator in generators:
            torch.randn(advanced, generator=generator)
    term = Tilt(brightness(tiny), scale=0)
    steered = steer(tiny.pipe, term, particles=K, select="all", stochastic=False)
    for _ in range(2):  # both lists go on in the same way
        plain = tiny.pipe(**{**CALL, **tiny.rows(K)}, generator=lists[0])
        out = steered(**{**CALL, **tiny.call}, generator=lists[1])
        assert equal(out, plain)
        assert out.steering.seed is None and "seeds" not in out.steering.settings
    for one, other in zip(*lists, strict=True):
        assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("sd", {"prompt": ["a cat", "dog"]}),
        ("flux", {"prompt": ["a cat", "dog"]}),
        ("dit", {"class_labels": [1, 2]}),
        ("cogvideox", {"prompt": ["a cat", "dog"]}),
    ],
)
def test_a_generator_for_each_prompt(name, both):
    advanced = seeded(4)
    torch.randn(2, generator=advanced)
    lists = [[seeded(), advanced.clone_state()] for _ in range(2)]
    out, again = (drawn(name, generators, **both) for generators in lists)
    assert equal(out, again)
    assert not equal(out, drawn(name, lists[0], **both))
    key, values = next(iter(both.items()))
    alone = [seeded(), advanced.clone_state()]
    for place, part in enumerate(as_tensor(out).split(K)):
        value = [values[place]] if key == "class_labels" else values[place]
        assert_near(part, as_tensor(drawn(name, alone[place], **{key: value})), 1e-5)
    assert out.steering.settings["seeds"][0] == SEED
    rows = [seeded(i) for i in range(2 * K)]
    assert not equal(drawn(name, rows, **both), out)


def test_rows_that_are_resampled_keep_the_slots_generators():
    sd = shared("sd")
    often = Resample(ess=None, window=(0, 1))
    term = Tilt(brightness(sd), scale=1000)
    steered = steer(sd.pipe, term, particles=K, resample=often)
    outs = [
        steered(**{**CALL, **sd.call}, generator=[seeded(i) for i in range(K)]) for _ in range(2)
    ]
    assert equal(*outs) and torch.equal(outs[0].steering.log_w, outs[1].steering.log_w)
    assert any(rows is not None for rows in outs[0].steering.rows)


def test_token_pipelines():
    def tokens(generator):
        steered = steer(llada(), twos(0.0), particles=K, select="all", stochastic=False)
        return steered(**TOKENS, generator=generator).steering

    one = seeded(5)
    first, second = tokens(one), tokens(one)
    assert first.seed == 5 and not torch.equal(first.latents, second.latents)
    for row, generator in zip(
        tokens(slot_generators(9, 1, K)).latents[0], slot_generators(9, 1, K), strict=True
    ):
        assert torch.equal(row, llada()(**TOKENS, generator=generator).sequences[0])


def test_numbers_and_kinds_that_mean_nothing_are_refused():
    message = r"generator must be one generator, .* prompt \(1\) .* \(3\), got 2 generators"
    with pytest.raises(ValueError, match=message):
        drawn("sd", [seeded(1), seeded(2)])
    with pytest.raises(TypeError, match="generator must be a torch.Generator .* got int"):
        drawn("sd", 7)
    with pytest.raises(ValueError, match=r"seed must be one number, .* got 0 numbers"):
        steer(shared("sd").pipe, particles=K, seed=[])(**{**CALL, **shared("sd").call})


def test_a_number_seeds_however_often_it_is_called():
    tiny, one = shared("sd"), seeded(1)
    steered = steer(tiny.pipe, particles=K, seed=SEED)
    call = {**CALL, **tiny.call}
    assert equal(steered(**call), steered(**call, generator=one))
    assert torch.equal(one.get_state(), seeded(1).get_state())  # the number comes first


def test_what_is_printed_and_saved_of_a_list(tmp_path):
    result = drawn("sd", [seeded(i) for i in range(K)]).steering
    code = python_of(result, tmp_path)
    assert "seed=" not in code and "generator=generators" in code and "# generators: " in code
    assert Result.load(result.save(tmp_path).parent).seed is None
    one = seeded()
    drawn_seed(one)
    result = drawn("sd", one).steering
    assert f"seed={result.seed}" in python_of(result, tmp_path) and result.seed != SEED

"""Zero is a number of its own: no setting takes it for the default."""

from argparse import Namespace

import pytest
import torch

import fkdiff.pipelines
from fkdiff import GumbelFlowPipeline, GumbelFlowScheduler, SimplexDenoiser, Tilt, as_reward, steer
from fkdiff.commands.live_settings import FIELDS, request_of
from fkdiff.sequences import sample_sequences
from fkdiff.zoo import train
from tests.taps.test_token_pipelines import CALL, llada
from tests.tiny import build

CS = as_reward(lambda h: h[..., 1].sum(1), name="cs", inputs="simplex")


@pytest.fixture(scope="module")
def flow():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SimplexDenoiser("ACGT", 8, width=16, layers=1, heads=2).eval()
        for part in (net.write, net.modulate):
            torch.nn.init.normal_(part.weight)
    made = GumbelFlowPipeline(net, GumbelFlowScheduler(4))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("terms", [[], [Tilt(CS, 2.0)]], ids=["no terms", "a tilt"])
@pytest.mark.parametrize(
    ("eta", "runs"), [(0.0, 0.0), (0, 0.0), (0.5, 0.5), (1.0, 1.0), (None, 1.0)]
)
def test_eta_of_a_flow_with_terms_is_the_one_that_is_given(flow, terms, eta, runs):
    def drawn():
        return torch.Generator().manual_seed(3)

    call = {"num_inference_steps": 5, "length": 8, "resample": None, "terms": terms}
    found = flow(3, eta=eta, generator=drawn(), **call).steering
    assert found.settings["eta"] == runs
    direct = sample_sequences(
        flow.denoiser,
        flow.scheduler.path,
        *terms,
        lengths=[8] * 3,
        labels=flow.denoiser.class_numbers([None] * 3),
        alphabet=flow.alphabet,
        steps=5,
        eta=runs if runs else 7.0,  # which counts for nothing without noise
        stochastic=None if runs else False,
        resample=None,
        seed=3,
    )
    assert torch.equal(found.latents, direct.latents)


def test_eta_of_a_plain_flow(flow):
    def drawn(**more):
        generator = torch.Generator().manual_seed(3)
        return flow(20, num_inference_steps=5, generator=generator, **more).sequences

    assert drawn() == drawn(eta=0.0) == drawn(eta=None) != drawn(eta=1.0)


def test_a_flow_without_noise_is_refused_where_copies_must_separate(flow):
    with pytest.raises(ValueError, match="leave stochastic=False and eta=0 out"):
        flow(eta=0.0, terms=[Tilt(CS, 2.0)])
    with pytest.raises(ValueError, match="eta must be positive with stochastic=True, got 0"):
        flow(eta=0.0, terms=[], stochastic=True)


@pytest.mark.parametrize("terms", [None, []])
def test_no_rows_at_once_are_refused(flow, terms):
    with pytest.raises(ValueError, match="micro_batch must be at least 1 or None, got 0"):
        flow(terms=terms, micro_batch=0)
    with pytest.raises(ValueError, match="micro_batch must be at least 1 or None, got 0"):
        sample_sequences(flow.denoiser, flow.scheduler.path, lengths=[3], micro_batch=0)


@pytest.mark.parametrize("name", ["RLGStableDiffusionPipeline", "AlfieStableDiffusionPipeline"])
def test_no_pictures_are_refused(name):
    tiny = build("sd")
    pipe = getattr(fkdiff.pipelines, name)(**tiny.pipe.components, requires_safety_checker=False)
    more = {"tuned": tiny.pipe.unet} if name.startswith("RLG") else {}
    with pytest.raises(ValueError, match="num_images_per_prompt must be at least 1, got 0"):
        pipe(**tiny.call, **more, num_images_per_prompt=0)


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize("terms", [(), (Tilt(as_reward(len), 0.0),)], ids=["plain", "a tilt"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sd", "num_images_per_prompt"),
        ("flux", "num_images_per_prompt"),
        ("ddpm", "batch_size"),
        ("wan", "num_videos_per_prompt"),
        ("stable_audio", "num_waveforms_per_prompt"),
        ("sd3_modular", "num_images_per_prompt"),
    ],
)
def test_no_samples_of_a_steered_call_are_refused(name, key, terms, number):
    tiny = build(name)
    steered = steer(tiny.pipe, *terms, particles=2, seed=0)
    with pytest.raises(ValueError, match=f"{key} must be at least 1, got {number}; leave it out"):
        steered(**{**tiny.call, key: number})


@pytest.mark.parametrize(
    "greedy", [{"temperature": 0.0}, {"temperature": 0.7, "sampling_method": "greedy"}]
)
def test_draws_at_temperature_zero_are_the_likeliest_tokens(greedy):
    def agree(**call):
        same = []

        def watch(step, trace):
            draws = step.x0_draws(20)
            same.append(bool((draws == draws[:1]).all()))

        steered = steer(llada(), particles=2, resample=None, seed=0, watch=watch)
        steered(**{**CALL, **call})
        return same

    assert all(agree(**greedy)) and not all(agree(temperature=1.0))


def test_a_form_s_numbers_are_those_that_were_typed(tmp_path):
    lists = {"model": ["emoji"], "reward": ["none"]}
    typed = {"particles": 1, "scale": 0, "steps": 1, "guidance": 0, "seed": 0}
    texts = {"prompt": "a", "model": "emoji", "reward": "none", "window": "0,1", "plain": False}

    def asked(**more):
        settings = {**texts, **typed, **more}
        return request_of(tuple(settings[name] for name in FIELDS), tmp_path, lists)

    request = asked()
    assert {name: getattr(request, name) for name in typed} == typed
    left_out = asked(steps=None, guidance=None, seed=None)
    assert (left_out.steps, left_out.guidance, left_out.seed) == (None, None, 0)


def test_an_empty_choice_is_refused():
    with pytest.raises(ValueError, match="select must be one of best, sample, all, got ''"):
        steer(build("ddpm").pipe, select="")


def test_a_learning_rate_of_zero_is_zero():
    given = {"images": 80, "device": "cpu", "bf16": False, "seed": 0}
    assert train._fit(Namespace(lr=0.0, **given), 8, 1e-3).lr == 0.0
    assert train._fit(Namespace(lr=None, **given), 8, 1e-3).lr == 1e-3

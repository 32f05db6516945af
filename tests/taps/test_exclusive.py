"""A tapped pipeline belongs to one run: what others do with it is refused, and harms nothing."""

import threading

import pytest
import torch
from diffusers import StableDiffusionPipeline

from fkdiff import Tilt, as_reward, steer
from fkdiff.taps import TapError
from fkdiff.terms.reward_time import within_seconds
from tests.taps.setups import CALL, brightness, shared
from tests.taps.test_token_pipelines import CALL as TOKEN_CALL
from tests.taps.test_token_pipelines import llada, twos
from tests.tiny import build


def elsewhere(act):
    """What `act` returns or raises in another thread."""
    answers = []

    def run():
        try:
            answers.append(act())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return answers[0]


def drawn(tiny, watch=None, reward=None, **more):
    term = Tilt(reward or brightness(tiny), 4.0)
    steered = steer(tiny.pipe, term, particles=3, seed=2, watch=watch, **more)
    return steered(**{**CALL, **tiny.call}).steering


def sharing(pipe, *names):
    """Another pipeline that shares components with one."""
    other = build("sd").pipe
    parts = {**other.components, **{name: getattr(pipe, name) for name in names}}
    made = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def plain(pipe):
    call = {**CALL, **shared("sd").call}
    return lambda: pipe(**call, generator=torch.Generator().manual_seed(0)).images


def steering(pipe):
    call = {**CALL, **shared("sd").call}
    return lambda: steer(pipe, particles=2, seed=0)(**call).images


OTHERS = {
    "the same, plain": (lambda pipe: plain(pipe), True),
    "the same, steered": (lambda pipe: steering(pipe), True),
    "its network, plain": (lambda pipe: plain(sharing(pipe, "unet")), True),
    "its network, steered": (lambda pipe: steering(sharing(pipe, "unet")), True),
    "its autoencoder, plain": (lambda pipe: plain(sharing(pipe, "vae")), True),
    "its autoencoder, steered": (lambda pipe: steering(sharing(pipe, "vae")), True),
    "the network itself": (lambda pipe: lambda: pipe.unet(torch.zeros(1)), True),
    "its texts, plain": (lambda pipe: plain(sharing(pipe, "text_encoder", "tokenizer")), False),
    "its texts, steered": (lambda pipe: steering(sharing(pipe, "text_encoder")), False),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_another_thread_does_with_it_is_refused_and_harms_nothing(sd, name):
    make, refused = OTHERS[name]
    act, answers = make(sd.pipe), []
    expected, alone = drawn(sd), None if refused else act()

    def watch(step, trace):
        answers.append(elsewhere(act))

    found = drawn(sd, watch)
    assert torch.equal(found.latents, expected.latents)
    assert torch.equal(found.log_w, expected.log_w)
    assert len(answers) == len(found.trace)
    for answer in answers:
        if refused:
            assert isinstance(answer, TapError), answer
            assert "in a steered run of StableDiffusionPipeline that hasn't ended" in str(answer)
        else:
            assert torch.equal(answer, alone)
    assert torch.equal(plain(sd.pipe)(), elsewhere(plain(sd.pipe)))  # free again


def test_a_plain_call_that_began_before_is_refused_when_it_goes_on(sd):
    expected, inside, go_on, answers = drawn(sd), threading.Event(), threading.Event(), []

    def pause(pipe, index, timestep, kwargs):
        inside.set()
        go_on.wait(60)
        return kwargs

    def early():
        try:
            sd.pipe(**{**CALL, **sd.call}, callback_on_step_end=pause)
        except TapError as error:
            answers.append(error)

    thread = threading.Thread(target=early)

    def watch(step, trace):
        if step.index == 0:
            go_on.set()
            thread.join(60)

    thread.start()
    assert inside.wait(60)
    found = drawn(sd, watch)
    assert len(answers) == 1 and torch.equal(found.latents, expected.latents)


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_reward_of_the_run_may_call_the_pipeline(sd, limit):
    """Also one with a time limit, which runs in a thread of its own."""
    bright, alone, seen = brightness(sd), plain(sd.pipe)(), []

    def score(pixels):
        seen.append(plain(sd.pipe)())
        return bright(pixels)

    reward = as_reward(score, name="brightness")
    reward = reward if limit is None else within_seconds(reward, limit)
    found = drawn(sd, reward=reward)
    assert torch.equal(found.latents, drawn(sd).latents)
    assert seen and all(torch.equal(pictures, alone) for pictures in seen)


def test_two_pipelines_in_two_threads_draw_what_each_draws_alone(sd):
    other = build("sd")
    expected = drawn(sd), drawn(other)
    together, start = [], threading.Barrier(2)

    def run(tiny):
        start.wait(60)
        together.append((tiny, drawn(tiny)))

    threads = [threading.Thread(target=run, args=(tiny,)) for tiny in (sd, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(together) == 2
    for tiny, found in together:
        assert torch.equal(found.latents, expected[0 if tiny is sd else 1].latents)


def test_pipelines_that_draw_tokens_are_held_too():
    pipe, answers = llada(), []

    def watch(step, trace):
        answers.append(elsewhere(lambda: pipe(**TOKEN_CALL)))
        answers.append(elsewhere(lambda: steer(pipe, twos(), particles=2)(**TOKEN_CALL)))

    steer(pipe, twos(), particles=2, seed=0, watch=watch)(**TOKEN_CALL)
    assert answers and all(isinstance(answer, TapError) for answer in answers)
    pipe(**TOKEN_CALL)


def test_an_error_gives_the_pipeline_back(sd):
    def broken(step, trace):
        raise RuntimeError("stop")

    before = type(sd.pipe), type(sd.pipe.unet), type(sd.pipe.scheduler), dict(vars(sd.pipe.vae))
    with pytest.raises(RuntimeError, match="stop"):
        drawn(sd, broken)
    assert before[:3] == (type(sd.pipe), type(sd.pipe.unet), type(sd.pipe.scheduler))
    assert vars(sd.pipe.vae).keys() == before[3].keys()
    drawn(sd)


def test_classes_keep_their_names_while_they_are_replaced(sd):
    """Diffusers recognises, saves and finds pipelines by the names of their parts' classes."""

    def kinds():
        return [type(sd.pipe), type(sd.pipe.unet)]

    stock, seen = kinds(), []
    drawn(sd, lambda step, trace: seen.append(kinds()))
    assert seen
    for replaced in seen:
        assert [kind.__name__ for kind in replaced] == [kind.__name__ for kind in stock]
        for kind, base in zip(replaced, stock, strict=True):
            assert issubclass(kind, base) and kind is not base
    assert kinds() == stock

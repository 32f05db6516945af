"""Rewards and monitors are tried before anything is drawn, and what they count is put back."""

import random

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from fkdiff import Cutout, Grid, Resample, Tilt, as_reward, sample, steer
from fkdiff.policy import ChunkSampler, Levels, SteeredPolicy
from fkdiff.processes.simplex import GumbelPath
from fkdiff.processes.tokens import MaskedPath
from fkdiff.sequences import Alphabet, sample_sequences
from fkdiff.taps.arguments import expand
from fkdiff.taps.stand_ins import stand_in_of_call
from fkdiff.terms.reward import RewardError
from fkdiff.terms.trial import TrialError
from fkdiff.tokens import sample_tokens
from tests.taps.setups import CALL, shared
from tests.taps.test_token_pipelines import CALL as TOKEN_CALL
from tests.taps.test_token_pipelines import llada
from tests.tiny import SETUPS

calls = {"network": 0}


def counted(function):
    def network(*arguments, **keywords):
        calls["network"] += 1
        return function(*arguments, **keywords)

    return network


def pictures(name):
    def run(reward, monitor, **more):
        tiny = shared(name)
        hooks = [
            net.register_forward_pre_hook(lambda *_: calls.update(network=calls["network"] + 1))
            for net in (getattr(tiny.pipe, "unet", None), getattr(tiny.pipe, "transformer", None))
            if net is not None
        ]
        terms = [Cutout()] if more.pop("alpha", False) else []
        try:
            steered = steer(
                tiny.pipe, *terms, *reward, monitor=monitor, particles=2, seed=0, **more
            )
            return steered(**{**CALL, **tiny.call}).steering
        finally:
            for hook in hooks:
                hook.remove()

    return run


def latents(reward, monitor, **more):
    return sample(
        counted(lambda x, alpha, sigma: -x),
        Grid.vp(4, prediction="score"),
        *reward,
        monitor=monitor,
        shape=(3, 2),
        seed=0,
        **more,
    )


def tokens(reward, monitor, **more):
    return sample_tokens(
        counted(lambda x, alpha: torch.zeros(*x.shape, 4)),
        MaskedPath(4, mask=3),
        *reward,
        monitor=monitor,
        template=torch.full((1, 5), -1),
        text=lambda x: ["".join("abcd"[i] for i in row) for row in x.tolist()],
        seed=0,
        **more,
    )


def sequences(reward, monitor, **more):
    return sample_sequences(
        counted(lambda z, alpha, sigma, mask, labels: z),
        GumbelPath(20),
        *reward,
        monitor=monitor,
        lengths=[3, 5],
        alphabet=Alphabet.named("protein"),
        steps=3,
        seed=0,
        **more,
    )


def actions(reward, monitor):
    levels = Levels.of(DDIMScheduler(20))
    sampler = ChunkSampler(counted(lambda x, t, o: 0 * x), levels, (4, 2))
    policy = SteeredPolicy(sampler, *reward, *(Tilt(m, 0.0) for m in monitor), particles=2)
    return policy.decide(torch.zeros(2, 3)).steering[0]


def texts_of_pipeline(reward, monitor):
    pipe = llada()
    pipe.model.register_forward_pre_hook(
        lambda *_: calls.update(network=calls["network"] + 1), with_kwargs=False
    )
    return steer(pipe, *reward, monitor=monitor, particles=2, seed=0)(**TOKEN_CALL).steering


RUNS = {
    **{f"{name} pixels": (pictures(name), "pixels") for name in ("sd", "flux", "pixart", "dit")},
    "wan video": (pictures("wan"), "video"),
    "stable_audio audio": (pictures("stable_audio"), "audio"),
    "sd rgba": (lambda r, m, **more: pictures("sd")(r, m, alpha=True, **more), "rgba"),
    "sample": (latents, "latents"),
    "tokens": (tokens, "tokens"),
    "texts": (tokens, "text"),
    "simplex": (sequences, "simplex"),
    "letters": (sequences, "text"),
    "actions": (actions, "actions"),
    "token pipeline": (texts_of_pipeline, "tokens"),
}
WRONG = {
    "no such attribute": lambda x: [one.convert("L") for one in x],
    "a scalar": lambda x: 1.0,
    "two columns": lambda x: torch.zeros(len(x), 2),
    "texts": lambda x: ["good"] * len(x),
    "nothing": lambda x: None,
    "complex": lambda x: torch.zeros(len(x), dtype=torch.complex64),
    "a name that isn't": lambda x: undefined(x),  # noqa: F821
    "no such file": lambda x: open("/nowhere/weights"),
    "another argument": lambda x, missing: torch.zeros(len(x)),
}


@pytest.mark.parametrize("place", ["steered", "monitored"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("path", RUNS)
def test_a_reward_that_can_t_score_is_refused_before_the_first_network_call(path, wrong, place):
    run, inputs = RUNS[path]
    bad = as_reward(WRONG[wrong], name="mine", inputs=inputs)
    calls["network"] = 0
    with pytest.raises(TrialError, match=rf"reward 'mine' can't score.*{inputs} as a.*; "):
        run([Tilt(bad)] if place == "steered" else [], [bad] if place == "monitored" else [])
    assert calls["network"] == 0


def pil_mean(images):
    return [np.asarray(image.convert("L")).mean() for image in images]


def pil_pixel(images):
    return [image.getpixel((0, 0))[0] / 255 for image in images]


def pil_size(images):
    return [image.size[0] * 1.0 for image in images]


def pil_error(images):
    if not all(isinstance(image, Image.Image) for image in images):
        raise ValueError("give me images")
    return [1.0] * len(images)


@pytest.mark.parametrize("reward", [pil_mean, pil_pixel, pil_size, pil_error])
@pytest.mark.parametrize("name", ["sd", "sdxl_inpaint", "sd_img2img", "lumina2", "pixart"])
def test_a_reward_of_pil_images_is_told_so(name, reward):
    calls["network"] = 0
    for formula in (as_reward(reward), 2 * as_reward(reward) - 1):
        with pytest.raises(TrialError, match=rf"'{reward.__name__}'.* inputs=\"pil\"") as caught:
            pictures(name)([Tilt(formula)], [])
        assert "(2, 3, " in str(caught.value)
    assert calls["network"] == 0
    pictures(name)([Tilt(as_reward(reward, inputs="pil"))], [])  # the remedy


def test_a_shape_that_isn_t_known_is_tried_at_the_first_transition():
    """Nothing has been weighed or kept by then, and what only the made-up shape breaks goes on."""
    tiny, seen = shared("stable_audio"), []

    def short(x):
        return x[:, :, 2000].mean(1)  # the made-up second is longer, or shorter

    def long(x):
        seen.append(x.shape[-1])
        return x.reshape(len(x), 2, 7).mean((1, 2))

    steered = steer(tiny.pipe, Tilt(as_reward(short, inputs="audio")), particles=2, seed=0)
    with pytest.raises(TrialError, match=r"audio as a float32 tensor of shape \(2, 2, 7\)"):
        steered(**{**CALL, **tiny.call})
    assert steered.partial is None
    pictures("stable_audio")([Tilt(as_reward(long, inputs="audio"))], [])
    assert set(seen) == {7}


def test_latents_of_a_pipeline_are_tried_at_the_first_transition():
    bad = as_reward(lambda x: x.mean((1, 2, 3, 4)), name="mine", inputs="latents")
    with pytest.raises(TrialError, match=r"latents as a float32 tensor of shape \(2, 4, 8, 8\)"):
        pictures("sd")([], [bad])


@pytest.mark.parametrize("name", SETUPS)
def test_stand_ins_have_the_shape_that_is_decoded(name):
    tiny, seen = shared(name), []
    given = expand(tiny.pipe, (), {**CALL, **tiny.call}, 1).arguments
    stand_in = stand_in_of_call(tiny.pipe, given, tiny.inputs)
    assert stand_in is not None and len(stand_in.samples) == 2

    def watch(x):
        seen.append(tuple(x.shape[1:]))
        return x.flatten(1).mean(1)

    pictures(name)([], [as_reward(watch, inputs=tiny.inputs)])
    assert len(seen[-1]) == stand_in.samples.ndim - 1
    if stand_in.exact:
        assert seen[-1] == tuple(stand_in.samples.shape[1:])


MAY_BE_OUTSIDE = {
    "nan": lambda x: torch.full((len(x),), torch.nan),
    "division": lambda x: 1 / 0,
    "search": lambda x: [[][0] for _ in x],
    "no match": lambda x: [None.group() for _ in x],
    "assertion": lambda x: exec("assert False"),
    "value": lambda x: int("x"),
}


@pytest.mark.parametrize("why", MAY_BE_OUTSIDE)
def test_samples_outside_of_what_a_reward_is_for_refuse_nothing(why):
    """These fail in the run, as before: no made-up sample shows that each sample would fail."""
    bad = as_reward(MAY_BE_OUTSIDE[why], inputs="latents")
    with pytest.raises(RewardError, match="at step 4 of 4") as caught:
        latents([], [bad])
    assert not isinstance(caught.value, TrialError)


class Counting:
    made = 0

    def __init__(self):
        self.calls, self.rows, self.stream = 0, [], torch.Generator().manual_seed(3)
        self.numpy, self.python = np.random.default_rng(4), random.Random(5)
        self.network = None

    def __call__(self, x):
        self.calls += 1
        Counting.made += 1
        self.rows.append(len(x))
        self.network = self.network or torch.nn.Identity()
        own = self.python.random() + float(self.numpy.random())
        world = random.random() + float(np.random.rand())
        noise = torch.rand(len(x), generator=self.stream) + torch.rand(len(x))
        return noise + own + world


def test_what_a_reward_counts_and_draws_is_what_it_would_be_without_the_trial(monkeypatch):
    def run():
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        counting, closed = Counting(), []

        def with_closure(x):
            nonlocal total
            total += 1
            closed.append(len(x))
            return x.flatten(1).mean(1) + total

        def in_places(x):
            places[0] += 1
            by_name["calls"] += 1
            return x.flatten(1).mean(1)

        places, by_name = [0], {"calls": 0}
        total, Counting.made = 0, 0
        terms = [
            Tilt(as_reward(r, inputs="latents"), 0.5) for r in (counting, with_closure, in_places)
        ]
        result = latents(terms, [], resample=Resample(ess=1.0))
        cost = result.cost.reward_calls
        rows = dict.fromkeys(("with_closure", "in_places"), sum(closed))
        assert cost == {"Counting": sum(counting.rows), **rows}
        assert places == [total] and by_name == {"calls": total}
        assert counting.calls == Counting.made == len(counting.rows) and total == len(closed)
        return result, torch.rand(1), np.random.rand(), random.random()

    tried = run()
    assert "trial" in tried[0].cost.seconds
    with monkeypatch.context() as patch:
        patch.setattr("fkdiff.run.Run.try_rewards", lambda *_: None)
        plain = run()
    assert torch.equal(tried[0].log_w, plain[0].log_w)
    assert torch.equal(tried[0].latents, plain[0].latents)
    assert tried[1:] == plain[1:]


def test_what_a_reward_loads_or_merely_uses_is_left_alone():
    loaded, pipe = [], shared("sd").pipe
    before = dict(pipe.components), dict(vars(pipe)), dict(vars(pipe.unet))

    def score(x):
        if not loaded:
            loaded.append(pipe.unet)
        return x.flatten(1).mean(1)

    latents([Tilt(as_reward(score, inputs="latents"))], [])
    assert loaded == [pipe.unet]
    assert before == (dict(pipe.components), dict(vars(pipe)), dict(vars(pipe.unet)))


def test_a_reward_is_tried_once_for_all_its_runs():
    with open_log() as log:
        dear = as_reward(lambda x: log(len(x)) or x.flatten(1).mean(1), inputs="latents")
        for _ in range(3):
            latents([], [dear])
        assert log.rows == [2, 4, 4, 4]


class open_log:
    """Notes that a trial doesn't put back: they are kept where no reward holds them."""

    rows_of: dict[int, tuple[int, ...]] = {}

    def __enter__(self):
        open_log.rows_of[0] = ()
        return self

    def __exit__(self, *_):
        open_log.rows_of.clear()

    def __call__(self, rows):
        open_log.rows_of[0] = (*open_log.rows_of[0], rows)

    @property
    def rows(self):
        return list(open_log.rows_of[0])

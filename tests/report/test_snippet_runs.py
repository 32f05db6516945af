"""The Python that does the same is run, and does the same."""

import ast
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from fkdiff import (
    Correct,
    Cutout,
    Grid,
    MaskedPath,
    Product,
    Resample,
    StraightThrough,
    Tilt,
    UniformPath,
    as_reward,
    sample,
    sample_tokens,
    steer,
)
from fkdiff.report.snippet import python_of
from fkdiff.result import Result
from fkdiff.rewards import Brightness, Colourfulness, JPEGSize
from fkdiff.sequences import sample_sequences
from fkdiff.terms import load_reward
from tests.sequences import toy
from tests.tiny import build

OFTEN = Resample("multinomial", ess=0.9, window=(0.0, 1.0))


def again(result: Result, folder, **yours) -> Result:
    """What the printed program makes, with what its comments ask for."""
    code = python_of(result, folder)
    names = {line[2:].split(":")[0] for line in code.splitlines() if line.startswith("# ")}
    assert names == set(yours)
    space: dict[str, Any] = dict(yours)
    exec(compile(code, "snippet", "exec"), space)
    assert (folder / "report.html").exists()
    out = space["out"]
    return out if isinstance(out, Result) else out.steering


def assert_same(found: Result, given: Result) -> None:
    assert torch.equal(found.latents, given.latents) and torch.equal(found.log_w, given.log_w)
    assert torch.equal(found.selected, given.selected)
    assert found.settings == given.settings and found.seed == given.seed


def towards(mean):
    def score(x, alpha, sigma):
        return -(x - alpha * mean) / (alpha**2 + sigma**2)

    return score


def high(latents):
    return latents.mean(1)


@pytest.mark.parametrize("prompts", [2, ["a", "b"]])
@pytest.mark.filterwarnings("ignore:Correct")
def test_sample(tmp_path, prompts):
    denoisers = {"cond": towards(1.0), "uncond": towards(0.0), "other": towards(-1.0)}
    path = Grid.vp(6, prediction="score")
    terms = Product("other", 0.3), Correct(), Tilt(as_reward(high, inputs="latents"), 2.0)
    settings = {"shape": (3,), "prompts": prompts, "guidance": 1.5, "particles": 5}
    more = {"resample": OFTEN, "select": "all", "micro_batch": 4, "dtype": torch.float64}
    given = sample(denoisers, path, *terms, **settings, **more)
    found = again(given, tmp_path / "run", denoisers=denoisers, path=path, high=high)
    assert_same(found, given)


def test_sample_without_noise_or_terms(tmp_path):
    score, path = towards(1.0), Grid.vp(6, prediction="score")
    given = sample(score, path, shape=(2, 2), stochastic=False, resample=None)
    assert_same(again(given, tmp_path / "run", denoisers=score, path=path), given)


@pytest.mark.parametrize(
    "path", [MaskedPath(4, mask=3), UniformPath(4)], ids=["masked", "uniform"]
)
def test_sample_tokens(tmp_path, path):
    def net(tokens, alpha):
        return torch.zeros(*tokens.shape, 3)

    def text(tokens):
        return ["".join(map(str, row.tolist())) for row in tokens]

    count = lambda texts: [float(t.count("2")) for t in texts]  # noqa: E731  # it has no name
    twos = as_reward(count, name="twos", inputs="text")
    template = torch.tensor([[-1, 1, -1, -1]])
    given = sample_tokens(
        net, path, Tilt(twos, 2.0, draws=3), template=template, text=text, particles=5,
        monitor=[twos * 2], resample=OFTEN,
    )  # fmt: skip
    assert "<lambda>, which has no name in code" in python_of(given, "x")
    yours = {"denoisers": net, "template": template, "text": text}
    found = again(given, tmp_path / "run", **yours, unnamed_1=count, unnamed_2=count)
    assert_same(found, given)


@pytest.mark.parametrize("stochastic", [None, False])
def test_sample_sequences(tmp_path, stochastic):
    def prize(simplex):
        return toy.prize(simplex)

    reward = as_reward(prize, inputs="simplex", differentiable=True)
    guided = [StraightThrough(reward, 0.5)] if stochastic is None else []
    settings = {"lengths": [2, 2], "steps": 5, "particles": 4, "stochastic": stochastic}
    resample = OFTEN if stochastic is None else None
    given = sample_sequences(
        toy.net, toy.PATH, *guided, Tilt(reward, 2.0), **settings, resample=resample
    )
    yours = {f"unnamed_{i + 1}": prize for i in range(len(guided) + 1)}
    found = again(given, tmp_path / "run", net=toy.net, **yours)
    assert_same(found, given)


def test_what_has_no_name_is_said_to_have_none():
    given = sample(
        towards(0.0),
        Grid.vp(3, prediction="score"),
        Tilt(as_reward(lambda latents: latents.mean(1), inputs="latents")),
        shape=(2,),
    )
    code = python_of(given, "runs/x")
    ast.parse(code)
    assert "<lambda>, which has no name in code" in code


@pytest.mark.parametrize("terms", [(Tilt(Brightness(), 20.0),), (Cutout(),)], ids=["tilt", "rgba"])
def test_steer(tmp_path, terms):
    build("sd").pipe.save_pretrained(tmp_path / "model")
    pipe = DiffusionPipeline.from_pretrained(str(tmp_path / "model"))
    call = {"num_inference_steps": 3, "height": 16, "width": 16, "negative_prompt": "it's ugly"}
    steered = steer(pipe, *terms, particles=3, resample=OFTEN, micro_batch=2, seed=5)
    given = steered('a "cat"', **call).steering
    assert_same(again(given, tmp_path / "run"), given)


def plain_mean(pixels):
    return pixels.mean((1, 2, 3))


MONITORS = {
    "one of one's own": (lambda: as_reward(plain_mean, name="mine", sd=2.0), {"plain_mean"}),
    "a formula": (lambda: 2 * as_reward(plain_mean) - Brightness(), {"plain_mean"}),
    "a class": (lambda: JPEGSize(quality=50), set()),
    "by name": (lambda: load_reward("brightness"), set()),
    "a formula by name": (lambda: load_reward("0.5 * brightness").calibrated(0.1, 2.0), set()),
}


@pytest.mark.parametrize("kind", MONITORS)
def test_monitors_are_printed_as_what_they_are(tmp_path, kind):
    make, names = MONITORS[kind]
    build("sd").pipe.save_pretrained(tmp_path / "model")
    pipe = DiffusionPipeline.from_pretrained(str(tmp_path / "model"))
    call = {"num_inference_steps": 2, "height": 16, "width": 16}
    steered = steer(pipe, Tilt(Colourfulness(), 2.0), monitor=[make()], particles=2, seed=5)
    given = steered("a cat", **call).steering
    found = again(given, tmp_path / "run", **{name: globals()[name] for name in names})
    assert_same(found, given)
    assert all(torch.equal(found.rewards[k], v) for k, v in given.rewards.items())
    looped = sample(
        towards(0.0), Grid.vp(3, prediction="score"), shape=(2,), seed=1,
        monitor=[as_reward(high, inputs="latents", name=f"high {kind}")],
    )  # fmt: skip
    yours = {"denoisers": towards(0.0), "path": Grid.vp(3, prediction="score"), "high": high}
    assert_same(again(looped, tmp_path / "loop", **yours), looped)


def test_steer_with_a_generator_for_each_particle(tmp_path):
    build("sd").pipe.save_pretrained(tmp_path / "model")
    pipe = DiffusionPipeline.from_pretrained(str(tmp_path / "model"))

    def own():
        return [torch.Generator().manual_seed(number) for number in range(3)]

    call = {"num_inference_steps": 3, "height": 16, "width": 16, "generator": own()}
    given = steer(pipe, Tilt(Brightness(), 20.0), particles=3)("a cat", **call).steering
    assert_same(again(given, tmp_path / "run", generators=own()), given)

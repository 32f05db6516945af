"""What a call drew for each row in variables of its own goes with the particle."""

import functools

import diffusers as D
import pytest
import torch

from fkdiff.processes import randn_rows
from fkdiff.processes.shards import Shards
from fkdiff.refusals import check_shared
from fkdiff.taps import TapError
from fkdiff.taps.arguments import expand
from fkdiff.taps.carried import Carried
from fkdiff.testing import check_pipeline
from tests.taps.setups import shared
from tests.taps.toy import SHAPE, ToyPipeline
from tests.tiny import SETUPS, given, prepared

FAMILIES = {
    "flux_control": SETUPS["flux_control"],
    "flux_controlnet": SETUPS["flux_controlnet"],
    "ltx_from_image": given.ltx_from_image,
}


@functools.cache
def built(name):
    return prepared(FAMILIES[name])


def checked(name):
    tiny = built(name)
    call = {**tiny.call, "num_inference_steps": 4}
    return check_pipeline(tiny.pipe, call, micro_batches=[None, 1])


@pytest.mark.parametrize("name", FAMILIES)
def test_without_it_rows_lose_what_was_drawn_for_them(name, monkeypatch):
    checked(name)
    monkeypatch.setattr(Carried, "tensors", lambda self, moved: [])
    with pytest.raises(AssertionError, match="something per row didn't follow"):
        checked(name)


class Drawing(ToyPipeline):
    """Pushes its state by noise that it drew for each row and keeps in several ways."""

    def __call__(
        self, batch_size=1, num_inference_steps=4, generator=(), latents=None, output_type="pt"
    ):
        self.scheduler.set_timesteps(num_inference_steps)
        x = randn_rows(torch.zeros(batch_size, *SHAPE), generator)
        pushes = {"far": randn_rows(x, generator), "near": [randn_rows(x, generator)]}
        flat = pushes["far"].view(batch_size, 1, -1)  # the same memory under another name
        self.own = randn_rows(x, generator)
        table = torch.arange(3.0 * batch_size).reshape(batch_size, 3)  # as long, but no row's
        for t in self.scheduler.timesteps:
            pushed = x + 0.1 * (pushes["far"] + pushes["near"][0] + self.own + flat.view_as(x))
            out = self.unet(pushed + table.std(), t)[0]
            x = self.scheduler.step(out, t, x, return_dict=False)[0]
        return _Output(images=x)


class _Output(dict):
    steering = None


def test_containers_attributes_and_second_names():
    check_pipeline(
        Drawing(D.DDIMScheduler(clip_sample=False)),
        {"num_inference_steps": 4},
        micro_batches=[None],
    )


class Owner:
    def __call__(self, user, shards):
        drawn = torch.arange(8.0).reshape(4, 1, 2)
        same = torch.ones(4, 1, 2)  # as a text's states, alike for all rows of a prompt
        prompts = torch.tensor([1.0, 1, 2, 2]).reshape(4, 1, 1)
        part, short = drawn[:2], drawn[:3]
        held = user  # noqa: F841  # the user's own, by another name
        found = Carried(self, shards, {"latents": user}).tensors([])
        assert len(same) + len(prompts) + len(part) + len(short)
        return [value is drawn for value in found]


def test_only_what_differs_within_a_prompt_counts_and_once():
    assert Owner()(torch.randn(4, 1, 2), Shards(2, 2)) == [True]


@pytest.mark.parametrize("name", FAMILIES)
def test_processes_that_share_a_cloud_refuse_what_they_can_t_hand_over(name):
    tiny = built(name)
    with pytest.raises(TapError, match="give each process prompts of its own"):
        check_shared(tiny.pipe, expand(tiny.pipe, (), dict(tiny.call), 2))
    plain = shared("flux")  # has nothing of the kind
    check_shared(plain.pipe, expand(plain.pipe, (), dict(plain.call), 2))

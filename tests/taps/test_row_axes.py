"""A network's rows are found where they are: repeated for frames, behind layers, or nowhere."""

import functools

import pytest
import torch

from fkdiff import Product, Resample, Tilt, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.batching import sliced
from fkdiff.taps.denoiser import binder_of
from fkdiff.taps.row_axes import RowAxes
from fkdiff.testing import check_pipeline
from tests.taps.setups import SEED, as_tensor, assert_near, brightness
from tests.tiny import newer_images, prepared, video

CALL = {"num_inference_steps": 2, "output_type": "pt"}
NAMES = ("animatediff", "hidream")


@functools.cache
def built(name):
    return prepared(video.animatediff if name == "animatediff" else newer_images.hidream)


def drawn(name, micro_batch, *terms, **more):
    tiny = built(name)
    run = steer(tiny.pipe, *terms, particles=2, seed=SEED, select="all", micro_batch=micro_batch)
    return run(**{**tiny.call, **CALL, **more})


@pytest.mark.parametrize("name", NAMES)
def test_rows_follow(name):
    tiny = built(name)
    call = {**tiny.call, "num_inference_steps": 3}
    check_pipeline(tiny.pipe, call, micro_batches=[1, 2], rows=3)


@pytest.mark.parametrize("name", NAMES)
def test_two_prompts_in_parts(name):
    whole, parts = (drawn(name, size, prompt=["a cat", "a loud dog"]) for size in (None, 1))
    assert_near(as_tensor(parts), as_tensor(whole), 2e-5)
    alone = drawn(name, 1, prompt="a cat")
    assert_near(as_tensor(alone), as_tensor(whole)[:2], 2e-5)
    assert (as_tensor(whole)[:2] - as_tensor(whole)[2:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_experts_of_the_rows(name):
    whole, parts = (drawn(name, size, Product("dog", 0.5, against="uncond")) for size in (None, 1))
    assert_near(as_tensor(parts), as_tensor(whole), 2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_where_it_stopped(name, tmp_path):
    tiny, calls = built(name), []
    term = Tilt(brightness(tiny), 20.0)
    often = Resample(ess=None, window=(0, 1))
    settings = {"particles": 2, "seed": SEED, "resample": often, "micro_batch": 1}
    call = {**tiny.call, **CALL, "num_inference_steps": 3}
    whole = steer(tiny.pipe, term, **settings)(**call)

    def stop(step, trace):
        calls.append(step)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steer(tiny.pipe, term, watch=stop, keep=tmp_path, **settings)(**call)
    again = steer(tiny.pipe, term, keep=tmp_path, **settings)(**call)
    assert torch.equal(again.steering.log_w, whole.steering.log_w)
    assert torch.equal(as_tensor(again), as_tensor(whole))


class Axes(RowAxes):
    """Compares with calls that a test writes down."""

    calls = {}

    @functools.cached_property
    def _compared(self):
        return [tuple(bound(**{k: make(n) for k, make in self.calls.items()}) for n in (1, 2))]


class Network(torch.nn.Module):
    def forward(self, sample, texts, places=None):
        """Only its signature counts."""


def bound(**arguments):
    return binder_of(Network())((), arguments)


def axes_of(particles, prompts=1, **calls):
    class Inputs:
        pass

    Inputs.prompts = prompts
    axes = Axes(None, Inputs, slot_generators(0, 1, particles))
    axes.calls = calls
    return axes


def state(n):
    return torch.arange(2.0 * n).reshape(2 * n, 1)


def test_each_kind_of_argument():
    layers = {"texts": lambda n: torch.arange(6.0 * n).reshape(3, 2 * n)}
    table = {"places": lambda n: torch.arange(6.0)}  # as long as the whole batch
    axes = axes_of(3, sample=state, **layers, **table)
    whole = bound(sample=state(3), texts=layers["texts"](3), places=table["places"](3))
    part = sliced(whole, 6, 1, 2, axes).arguments
    assert part["sample"].flatten().tolist() == [1, 2]
    assert part["texts"].tolist() == [[1, 2], [7, 8], [13, 14]]
    assert part["places"].tolist() == [0, 1, 2, 3, 4, 5]
    frames = {"texts": lambda n: state(n).repeat_interleave(4, dim=0)}
    axes = axes_of(3, sample=state, **frames)
    part = sliced(bound(sample=state(3), texts=frames["texts"](3)), 6, 1, 2, axes).arguments
    assert part["texts"].flatten().tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_what_can_not_be_told_is_refused():
    square = {"texts": lambda n: torch.zeros(2 * n, 2 * n)}
    axes = axes_of(3, sample=state, **square)
    with pytest.raises(TapError, match=r"entries of texts \(6, 6\) belong to which of 3"):
        sliced(bound(sample=state(3), texts=square["texts"](3)), 6, 0, 1, axes)
    tiled = {"texts": lambda n: torch.arange(2.0 * n).div(n).floor()[:, None].repeat(4, 1)}
    axes = axes_of(2, prompts=2, sample=state, **tiled)
    with pytest.raises(TapError, match=r"entries of texts \(16, 1\) belong to which"):
        sliced(bound(sample=state(2), texts=tiled["texts"](2)), 4, 0, 1, axes)

"""Runs that begin in the middle of the grid, as image-to-image does, with every solver."""

import copy
import inspect
from types import SimpleNamespace

import diffusers as D
import pytest
import torch

from fkdiff import Tilt, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.scheduler import tapped_scheduler
from tests.taps.scheduler_cases import CASES, Case
from tests.taps.setups import Watching, brightness, plain_call
from tests.taps.toy import SHAPE, Script, ToyPipeline, tap
from tests.tiny import build

K, STEPS = 3, 6
# Solvers that no pipeline starts in the middle: their grids or their first steps don't allow it.
WHOLE = ("SCMScheduler", "CogVideoXDPMScheduler", "FlowMapEuler", "MiniMaxH3", "CMStochastic")
# The plainest set-up of each; those whose grid holds a timestep twice begin at both of its places.
MIDDLE = {case.name: case for case in reversed(CASES) if not case.name.startswith(WHOLE)}


class Begun(ToyPipeline):
    """Image-to-image as diffusers writes it: the rest of the grid, begun at `start`."""

    def __init__(self, scheduler, step=None, start=2, time=lambda t, rows: t):
        super().__init__(scheduler, step)
        self.start, self.time = start, time

    def __call__(self, batch_size=1, num_inference_steps=STEPS, generator=(), latents=None):
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        begin = self.start * getattr(scheduler, "order", 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        x = torch.randn(batch_size, *SHAPE, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps[begin:]:
            scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)(x, t)
            output = self.unet(scaled, t)[0]
            noisy = "generator" in inspect.signature(scheduler.step).parameters
            noise = {"generator": list(generator)} if noisy else {}
            time = self.time(t, batch_size)
            x = scheduler.step(output, time, x, **self.step, **noise, return_dict=False)[0]
        return SimpleNamespace(images=x)


def begun(case: Case, start: int, **more) -> Begun:
    return Begun(case.pipe().scheduler, case.step, start, **more)


def calls_of(pipe) -> list:
    found: list = []
    generators = slot_generators(1, 1, K)
    with tapped_scheduler(pipe, generators, found.append):
        pipe(K, STEPS, generators)
    return found


@pytest.mark.parametrize("case", MIDDLE.values(), ids=str)
def test_a_run_from_the_middle_is_counted_to_its_end(case):
    whole = calls_of(begun(case, 0))
    order = getattr(case.pipe().scheduler, "order", 1)
    for start in (1, 2):
        calls = calls_of(begun(case, start))
        assert [call.position for call in calls] == list(range(calls[-1].calls)), start
        assert [call.last for call in calls] == [False] * (len(calls) - 1) + [True]
        assert [call.pair for call in calls] == [call.pair for call in whole[start * order :]]
        script = Script(K)
        stock = begun(case, start)(K, STEPS, slot_generators(7, 1, K)).images
        out = tap(begun(case, start), script, {"batch_size": K})().images
        assert torch.equal(out, stock)
        assert [step.index for step in script.steps] == list(range(script.steps[-1].total))
        assert script.steps[-1].final


def test_a_timestep_that_is_a_copy_is_found_by_its_value():
    pipe = Begun(D.DDIMScheduler(clip_sample=False), start=3, time=lambda t, rows: int(t))
    assert [call.calls for call in calls_of(pipe)] == [STEPS - 3] * (STEPS - 3)


class Wuerstchen(ToyPipeline):
    """As the Stable Cascade pipelines call it: one time a row, but for the last of the grid."""

    def __call__(self, batch_size=1, num_inference_steps=STEPS, generator=(), latents=None):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(batch_size, *SHAPE, generator=torch.Generator().manual_seed(0))
        for t in self.scheduler.timesteps[:-1]:
            ratio = t.expand(batch_size)
            out = self.unet(x, ratio[:1])[0]
            x = self.scheduler.step(
                model_output=out, timestep=ratio, sample=x, generator=list(generator)
            ).prev_sample
        return SimpleNamespace(images=x)


@pytest.mark.parametrize("stochastic", [None, True])
def test_a_time_for_each_row(stochastic):
    pipe = Wuerstchen(D.DDPMWuerstchenScheduler())
    stock = pipe(K, STEPS, slot_generators(7, 1, K)).images
    script = Script(K)
    out = tap(pipe, script, {"batch_size": K}, stochastic=stochastic)().images
    assert torch.equal(out, stock) == (stochastic is None)
    assert len(script.steps) == STEPS == script.steps[-1].total
    for step in script.steps:
        assert step.path.alpha**2 + step.path.sigma**2 == pytest.approx(1, abs=1e-6)
        assert step.path.alpha < step.path.alpha_next


@pytest.mark.parametrize(
    "scheduler", [D.FlowMatchEulerDiscreteScheduler(), D.UniPCMultistepScheduler()], ids=type
)
def test_rows_at_one_time_pass_and_at_different_times_are_refused(scheduler):
    same = Begun(copy.deepcopy(scheduler), time=lambda t, rows: t.repeat(rows).clone())
    assert len(calls_of(same)) == STEPS - 2
    apart = Begun(scheduler, time=lambda t, rows: t - torch.arange(rows))
    with pytest.raises(TapError, match="the same for all rows of a step"):
        calls_of(apart)


class Conditioned(ToyPipeline):
    """As LTXConditionPipeline calls it: tokens of an image are clean, and the sign is turned."""

    def __call__(self, batch_size=1, num_inference_steps=STEPS, generator=(), latents=None):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(batch_size, 4, 8, generator=torch.Generator().manual_seed(0))
        for t in self.scheduler.timesteps:
            velocity = self.unet(x, t)[0]
            times = torch.where(torch.arange(4) < 1, 0.0, t).expand(batch_size, -1)
            (x,) = self.scheduler.step(
                -velocity, t, x, per_token_timesteps=times, return_dict=False
            )
        return SimpleNamespace(images=x)


def test_a_time_for_each_token():
    script = Script(K)
    pipe = Conditioned(D.FlowMatchEulerDiscreteScheduler())
    out = tap(pipe, script, {"batch_size": K})().images
    assert torch.equal(out, pipe(K).images)
    for step in script.steps[:-1]:
        (velocity,) = pipe.unet(step.x, torch.tensor(1000 * step.path.sigma))
        exact = torch.cat([step.x, step.x - step.path.sigma * velocity], 1)
        torch.testing.assert_close(step.x0, exact[:, [0, 5, 6, 7]], rtol=1e-4, atol=1e-4)
    assert torch.equal(script.steps[-1].x0, out)


SOLVERS = {
    "heun": (D.HeunDiscreteScheduler, {}),
    "kdpm2": (D.KDPM2DiscreteScheduler, {"num_train_timesteps": 100, "beta_end": 0.2}),
    "pndm": (D.PNDMScheduler, {"skip_prk_steps": True}),
    "unipc": (D.UniPCMultistepScheduler, {}),
    "deis": (D.DEISMultistepScheduler, {}),
    "dpm_single": (D.DPMSolverSinglestepScheduler, {}),
}


@pytest.mark.parametrize("name", ["sd_img2img", "sd_inpaint", "sdxl_img2img"])
def test_images_and_holes_with_every_solver(name):
    tiny = build(name)
    for kind, config in SOLVERS.values():
        tiny.pipe.scheduler = kind.from_config(tiny.pipe.scheduler.config, **config)
        for strength in (0.8, 0.6):  # PNDM begins at both places of its doubled timestep
            more = {"num_inference_steps": 5, "strength": strength}
            seen = []
            watching = Watching(lambda step, seen=seen: seen.append((step.index, step.total)))
            run = steer(tiny.pipe, watching, particles=5, seed=7, stochastic=False, select="all")
            out = run(**{**tiny.call, **more, "output_type": "pt"})
            assert torch.equal(out.images, plain_call(tiny, **more)), (kind, strength)
            assert seen == [(index, len(seen)) for index in range(len(seen))]
    steered = steer(tiny.pipe, Tilt(brightness(tiny), 50.0), particles=3, seed=0)
    assert steered(**{**tiny.call, **more}).steering.complete

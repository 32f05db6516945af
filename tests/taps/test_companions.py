"""Pipelines with several schedulers: one transition a step, all latents continue the same rows."""

import copy
from types import SimpleNamespace

import diffusers as D
import pytest
import torch

from fkdiff import Correct, Product, RLGuidance, Tilt, as_reward, steer
from fkdiff.processes import randn_rows
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.outputs import mixture
from tests.taps.pools import nudged
from tests.taps.setups import Watching, assert_near
from tests.taps.toy import SHAPE, Script, ToyPipeline, tap
from tests.tiny import prepared
from tests.tiny.sounding import ltx2

K, STEPS = 4, 6
MOVES = {1: [2, 0, 0, 3], 3: [0, 1, 1, 2], 5: [3, 3, 0, 1]}
SOUND = (2, 8)
SOLVERS = {
    "ddim": lambda: D.DDIMScheduler(clip_sample=False),
    "heun": D.HeunDiscreteScheduler,
    "dpm": D.DPMSolverMultistepScheduler,
    "unipc": D.UniPCMultistepScheduler,
    "pndm": lambda: D.PNDMScheduler(skip_prk_steps=True),
    "flow": D.FlowMatchEulerDiscreteScheduler,
}


class Duet(ToyPipeline):
    """Steps two latents that look at each other, the second by a copy of the scheduler."""

    def __init__(self, scheduler, sound_first=False, lag=False, sound_rows=1, owned=False):
        super().__init__(scheduler)
        if owned:
            self.sound_scheduler = copy.deepcopy(scheduler)
        self.sound_first, self.lag, self.sound_rows = sound_first, lag, sound_rows

    def __call__(self, batch_size=1, num_inference_steps=STEPS, generator=(), latents=None):
        first = self.scheduler
        first.set_timesteps(num_inference_steps)
        second = getattr(self, "sound_scheduler", None) or copy.deepcopy(first)
        second.set_timesteps(num_inference_steps)
        size = getattr(first, "init_noise_sigma", 1.0)
        x = size * randn_rows(torch.zeros(batch_size, *SHAPE), generator)
        y = size * randn_rows(torch.zeros(batch_size, *SOUND), generator)
        y = y[: round(self.sound_rows * batch_size)]
        for i, t in enumerate(first.timesteps):
            scaled = getattr(first, "scale_model_input", lambda x, t: x)(x, t)
            loudness = y[:, :1, :1, None] if len(y) == len(x) else 0.0
            out = self.unet(scaled + loudness, t)[0]
            heard = torch.tanh(y) + scaled[: len(y), 0, :1, :1]
            steps = [(first, out, "x"), (second, heard, "y")]
            if self.lag and i == 1:
                steps = steps[:1]
            for scheduler, output, name in steps[:: -1 if self.sound_first else 1]:
                state = {"x": x, "y": y}[name]
                state = scheduler.step(output, t, state, return_dict=False)[0]
                x, y = (state, y) if name == "x" else (x, state)
        return SimpleNamespace(images=x, sound=y)


def duet(solver, rows, **more):
    script = Script(K, rows, slot_generators(1, 1, K))
    arguments = {"batch_size": K, "num_inference_steps": STEPS}
    return script, tap(Duet(SOLVERS[solver](), **more), script, arguments)


@pytest.mark.parametrize(("sound_first", "owned"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_both_latents_continue_the_same_rows(solver, sound_first, owned):
    how = {"sound_first": sound_first, "owned": owned}
    plain, run = duet(solver, {}, **how)
    untouched = run()
    total = plain.steps[-1].total
    assert [step.index for step in plain.steps] == list(range(total))
    assert total == (STEPS + 1 if solver == "pndm" else STEPS)
    lineage = torch.arange(K)
    rows = {index: parents for index, parents in MOVES.items() if index < total}
    for index in sorted(rows):
        lineage = lineage[torch.tensor(rows[index])]
    moved = duet(solver, rows, **how)[1]()
    assert torch.equal(moved.images, untouched.images[lineage])
    assert torch.equal(moved.sound, untouched.sound[lineage])


def test_a_stage_before_the_run_stays_as_it_is():
    class Staged(ToyPipeline):
        def __call__(self, batch_size=1, num_inference_steps=STEPS, generator=(), latents=None):
            prior, prior.scheduler = copy.copy(self), self.prior_scheduler
            self.seen = ToyPipeline.__call__(prior, batch_size, 3, generator).images
            return super().__call__(batch_size, num_inference_steps, generator, latents)

    pipe = Staged(D.DDIMScheduler(clip_sample=False))
    pipe.prior_scheduler = D.DDIMScheduler(clip_sample=False)
    script = Script(K, MOVES, slot_generators(1, 1, K))
    tap(pipe, script, {"batch_size": K, "num_inference_steps": STEPS})()
    found = pipe.seen
    pipe(K, STEPS, slot_generators(1, 1, K))
    assert torch.equal(found, pipe.seen)
    assert len(script.steps) == STEPS


def test_latents_at_other_times_and_of_other_rows_are_refused():
    with pytest.raises(TapError, match="stepped at different times"):
        duet("ddim", {}, lag=True)[1]()
    with pytest.raises(TapError, match="2 rows of latents for 4 particles"):
        duet("ddim", {}, sound_rows=0.5)[1]()


@pytest.fixture(scope="module")
def tiny():
    return prepared(ltx2)


CALL = {"num_inference_steps": 4, "output_type": "pt"}


@pytest.fixture(scope="module")
def stock(tiny):
    return tiny.pipe(**tiny.rows(3), **CALL, generator=slot_generators(0, 1, 3))


def test_a_plain_run_is_the_stock_call_with_one_transition_a_step(tiny, stock):
    seen = []
    watching = Watching(lambda step: seen.append((step.index, step.total)))
    run = steer(tiny.pipe, watching, particles=3, seed=0, stochastic=False, select="all")
    out = run(**tiny.call, **CALL)
    assert seen == [(index, 4) for index in range(4)]
    assert torch.equal(out.frames, stock.frames)
    assert torch.equal(out.audio, stock.audio)


def test_video_and_sound_continue_the_same_rows(tiny, stock):
    script = Script(3, {1: [2, 0, 0], 2: [1, 1, 2]}, slot_generators(0, 1, 3))
    out = tap(tiny.pipe, script, {**tiny.rows(3), **CALL}, key="num_videos_per_prompt")()
    lineage = torch.tensor([2, 0, 0])[torch.tensor([1, 1, 2])]
    assert_near(out.frames, stock.frames[lineage], 1e-5)
    assert_near(out.audio, stock.audio[lineage], 1e-5)


def test_what_comes_out_is_heard_as_it_is_seen(tiny):
    """The selected picture has its own sound, and the video is decoded as the pipeline does."""
    dark = as_reward(lambda video: -video.flatten(1).mean(1), name="dark", inputs="video")
    best, whole = (
        steer(tiny.pipe, Tilt(dark, 300.0), particles=3, seed=3, resample=None, select=select)(
            **tiny.call, **CALL
        )
        for select in ("best", "all")
    )
    first = int(best.steering.selected[0, 0])
    assert first != 0
    assert_near(best.frames[0], best.steering.samples[0, first], 1e-5)
    assert_near(best.audio[0], whole.audio[0], 1e-5)
    assert not torch.allclose(whole.audio[0], whole.audio[1], atol=1e-3)


@pytest.mark.filterwarnings("ignore:Correct")
def test_what_can_t_hold_for_two_latents_is_refused(tiny, tmp_path):
    corrected = steer(tiny.pipe, Product("a dog", 0.5), Correct(), particles=2, seed=0)
    with pytest.raises(TapError, match=r"Correct\(\) must move all of the state"):
        corrected(**tiny.call, **CALL)
    with pytest.raises(TapError, match="leave out keep"):
        steer(tiny.pipe, particles=2, seed=0, keep=tmp_path)(**tiny.call, **CALL)
    assert not list(tmp_path.iterdir())


def test_rl_guidance_mixes_both_predictions(tiny, stock):
    a, b = ((torch.ones(2, 3), torch.full((2, 3), 4.0)), (torch.zeros(2, 3), torch.ones(2, 3)))
    mixed = mixture([(0.25, a), (0.75, b)], torch.zeros(2, 3))
    assert [float(part.mean()) for part in mixed] == [0.25, 1.75]
    tuned = nudged(tiny.pipe.transformer)
    heard = {
        w: steer(tiny.pipe, RLGuidance(tuned, w), particles=1, seed=0)(**tiny.call, **CALL).audio
        for w in (1 - 1e-6, 1.0)
    }
    assert_near(heard[1 - 1e-6], heard[1.0], 1e-4)
    assert not torch.allclose(heard[1.0], stock.audio[:1], atol=1e-3)

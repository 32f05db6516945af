"""One clock: guidance, potentials and windows see the same progress, in every loop."""

import diffusers as D
import pytest
import torch

from fkdiff import (
    Grid,
    MaskedPath,
    Resample,
    RLGuidance,
    Tilt,
    UniformPath,
    as_reward,
    sample,
    sample_tokens,
    steer,
)
from fkdiff.processes.simplex import GumbelPath
from fkdiff.sequences import StraightThrough, sample_sequences
from fkdiff.terms.clock import progress_of, within
from tests.taps.pools import nudged
from tests.tiny import build

NEVER = Resample(ess=1e-9, window=(0, 1))  # it could fire at each transition, and never does


class Clocked:
    """Terms that note the progress that their schedules are shown.

    Arguments:
        tuned: Expert of the guidance.
        kind: What the reward reads.
    """

    def __init__(self, tuned, kind="latents"):
        self.guided, self.tilted = [], []
        reward = as_reward(lambda x: x.flatten(1).double().mean(1), name="r", inputs=kind)
        self.terms = [
            RLGuidance(tuned, lambda p: self.guided.append(p) or p),
            Tilt(reward, schedule=lambda p: self.tilted.append(p) or p),
        ]

    def check(self, steps):
        """In the last transition all of the scale is due, and no schedule is looked at."""
        expected = [progress_of(index, steps) for index in range(steps)]
        assert list(dict.fromkeys(self.guided)) == expected
        assert self.tilted == expected[:-1]


def test_progress_is_the_share_that_is_done_after_a_transition():
    assert [progress_of(i, 4) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("steps", [3, 7, 10, 49, 50])
def test_intervals_that_meet_share_no_transition_and_leave_none_out(steps):
    for middle in (0.1, 0.3, 0.7, 1 / 3, 0.9):
        places = [progress_of(index, steps) for index in range(steps)]
        early, late = (
            [within(part, p) for p in places] for part in ((0.0, middle), (middle, 1.0))
        )
        assert [a != b for a, b in zip(early, late, strict=True)] == [True] * steps
        assert sum(early) == int(middle * steps + 1e-9)


def test_sample():
    clocked = Clocked("tuned")
    score = {name: lambda x, alpha, sigma: -x for name in ("cond", "tuned")}
    sample(score, Grid.vp(5, 5.0, "score"), *clocked.terms, shape=(2,), seed=0, resample=NEVER)
    clocked.check(5)


@pytest.mark.parametrize("path", [MaskedPath(5, mask=3), UniformPath(5)])
def test_sample_tokens(path):
    clocked = Clocked("tuned", "tokens")
    networks = {name: lambda x, alpha: torch.zeros(*x.shape, 3) for name in ("cond", "tuned")}
    template = torch.full((1, 2), -1)
    sample_tokens(networks, path, *clocked.terms, template=template, seed=0, resample=NEVER)
    clocked.check(5)


def test_sample_sequences():
    seen, told = [], []

    class Noting(StraightThrough):
        def active(self, progress):
            seen.append(progress)
            return super().active(progress)

    def net(z, alpha, sigma, mask, labels=None):
        return torch.zeros(z.shape)

    guide = as_reward(lambda h: h[..., 0].sum(1), inputs="simplex", differentiable=True, name="a")
    tilt = Tilt(guide, schedule=lambda p: told.append(p) or p)
    settings = {"steps": 5, "seed": 0, "resample": NEVER}
    sample_sequences(net, GumbelPath(3), Noting(guide), tilt, lengths=[2], **settings)
    assert seen == [progress_of(index, 5) for index in range(5)]
    assert told == seen[:-1]


# Where a run begins in the middle of the grid, its clock begins there too.
PIPELINES = {
    "sd": [None, D.DDIMScheduler, D.PNDMScheduler, D.HeunDiscreteScheduler],
    "sd_img2img": [D.DDIMScheduler, D.PNDMScheduler, D.HeunDiscreteScheduler, D.DDPMScheduler],
    "flux_img2img": [None],
    "sd3": [None],
}


@pytest.mark.parametrize(
    "name, solver", [(name, solver) for name, solvers in PIPELINES.items() for solver in solvers]
)
def test_pipelines(name, solver):
    tiny = build(name)
    if solver is not None:
        tiny.pipe.scheduler = solver.from_config(tiny.pipe.scheduler.config)
    clocked = Clocked(nudged(getattr(tiny.pipe, "unet", None) or tiny.pipe.transformer))
    steered = steer(tiny.pipe, *clocked.terms, particles=2, seed=0, resample=NEVER)
    result = steered(**{**tiny.call, "num_inference_steps": 6}).steering
    clocked.check(len(result.trace))

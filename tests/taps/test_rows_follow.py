"""Every set-up through `check_pipeline`, and a pipeline whose hidden state stays behind."""

import diffusers as D
import pytest
import torch

from fkdiff.processes import randn_rows
from fkdiff.taps.samples import Samples
from fkdiff.testing import check_pipeline
from tests.taps.setups import shared
from tests.taps.toy import SHAPE, ToyPipeline
from tests.tiny import SETUPS


@pytest.mark.parametrize("name", SETUPS)
def test_rows_follow_in_every_set_up(name):
    tiny = shared(name)
    check_pipeline(tiny.pipe, {"num_inference_steps": 4, **tiny.call})


class Hidden(ToyPipeline):
    """Adds noise that it drew for each row and keeps as a list of numbers."""

    def __call__(
        self, batch_size=1, num_inference_steps=4, generator=(), latents=None, output_type="pt"
    ):
        self.scheduler.set_timesteps(num_inference_steps)
        x = randn_rows(torch.zeros(batch_size, *SHAPE), generator)
        hidden = randn_rows(torch.zeros(batch_size, 1), generator).flatten().tolist()
        for t in self.scheduler.timesteps:
            pushed = x + torch.tensor(hidden)[:, None, None, None]
            x = self.scheduler.step(self.unet(pushed, t)[0], t, x, return_dict=False)[0]
        return _Output(images=x)


class _Output(dict):
    def __init__(self, images):
        super().__init__(images=images)

    steering = None


def test_samples_that_are_shown_otherwise_than_they_come_out_are_noticed(monkeypatch):
    usual = Samples.decode
    monkeypatch.setattr(Samples, "decode", lambda *given: 1 - usual(*given))
    with pytest.raises(AssertionError, match="samples that rewards are shown"):
        check_pipeline(shared("sd").pipe, {"num_inference_steps": 4, **shared("sd").call})


def test_a_state_that_stays_behind_is_noticed():
    pipe = Hidden(D.DDIMScheduler(clip_sample=False))
    with pytest.raises(AssertionError, match="something per row didn't follow"):
        check_pipeline(pipe, {"num_inference_steps": 4})

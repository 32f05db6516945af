"""A tap reads each level once, and remembers what it would read anew; nothing else is repeated."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler
from diffusers.configuration_utils import FrozenDict

import fkdiff.taps.timesteps
from fkdiff import Tilt, as_reward, sample, steer
from fkdiff.processes import Grid
from fkdiff.processes.streams import slot_generators
from fkdiff.smc import Cloud
from fkdiff.taps.coefficients import coefficients
from fkdiff.taps.decode import DECODERS
from fkdiff.taps.denoiser import binder_of
from fkdiff.taps.scheduler import tapped_scheduler
from fkdiff.taps.timesteps import Clock
from tests.taps.scheduler_cases import CASES
from tests.taps.setups import CALL, shared

K, STEPS = 2, 6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_noise_levels_are_read_once_a_call(case, monkeypatch):
    """A call begins where the last one ended, to the last bit: the level isn't read again."""
    read, begun = [], []

    def counted(scheduler, timestep):
        read.append(coefficients(scheduler, timestep))
        return read[-1]

    def before(scheduler, arguments, pair):
        assert pair == coefficients(scheduler, arguments["timestep"])
        begun.append(pair)

    monkeypatch.setattr(fkdiff.taps.timesteps, "coefficients", counted)
    pipe, generators = case.pipe(), slot_generators(1, 1, K)
    with tapped_scheduler(pipe, generators, lambda call: None, before):
        pipe(K, STEPS, generators)
    assert len(begun) >= STEPS - 1
    assert len(read) - len(begun) in (0, 1)  # 1 where the grid's last timestep is the end


def test_another_time_or_place_is_read_anew(monkeypatch):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    clock, grid = Clock(), scheduler.timesteps
    clock.start(scheduler, grid[3])
    clock.tick()
    clock.next_pair(scheduler)
    assert clock.known is not None
    clock.known = clock.known[0], None, (7.0, 7.0)  # so that it shows whether it was read
    assert clock.pair(scheduler, grid[4]) == (7.0, 7.0)
    for timestep in (grid[5], grid[4].clone(), grid[4].item(), grid[4].expand(3)):
        expected = coefficients(scheduler, timestep)
        assert clock.pair(scheduler, timestep) == expected != (7.0, 7.0)
    monkeypatch.setattr(scheduler, "step_index", 5, raising=False)
    assert clock.pair(scheduler, grid[4]) == coefficients(scheduler, grid[4])


@pytest.mark.parametrize("name", ["sd", "dit", "flux", "sd3_modular"])
def test_a_step_writes_no_config(name, monkeypatch):
    """diffusers writes a pipeline's config anew where a part of it is assigned."""
    tiny, written, own = shared(name), [], []
    pipe, scheduler, usual = tiny.pipe, tiny.pipe.scheduler, ConfigMixin.register_to_config

    def counted(self, **settings):
        written.append(settings)
        usual(self, **settings)

    def score(latents):
        own.append(pipe.scheduler is scheduler)
        return latents.flatten(1).mean(1)

    monkeypatch.setattr(ConfigMixin, "register_to_config", counted)
    term, found = Tilt(as_reward(score, name="mean", inputs="latents")), []
    for steps in (3, 6):
        written.clear()
        steer(pipe, term, particles=K, seed=0)(
            **{**tiny.call, **CALL, "num_inference_steps": steps}
        )
        found.append(len(written))
    assert found[0] == found[1]
    assert len(own) > 2 and all(own)  # rewards see the user's scheduler


def test_arguments_go_on_as_they_came():
    class Network(torch.nn.Module):
        def forward(self, x, time=0, *, words=None):
            raise NotImplementedError

    bind = binder_of(Network())
    for _ in range(2):
        assert bind((1,), {"time": 2}).args == (1,)
        assert bind((1,), {"time": 2}).kwargs == {"time": 2}
        assert bind((1, 2), {"words": 3}).args == (1, 2)
        assert bind((1, 2), {"words": 3}).kwargs == {"words": 3}
        assert bind((), {"x": 1}).args == ()
    with pytest.raises(TypeError, match="too many"):
        bind((1, 2, 3), {})


class HalfVae:
    """An autoencoder that counts the reads of its `dtype` and keeps the types it decodes in."""

    def __init__(self, kept, upcast):
        self.config = FrozenDict({"scaling_factor": 1.0, "force_upcast": upcast})
        self.kept, self.asked, self.used = kept, 0, []

    @property
    def dtype(self):
        self.asked += 1
        return self.kept

    def to(self, dtype):
        self.kept = dtype

    def decode(self, z, return_dict):
        self.used.append((z.dtype, self.kept))
        return (z,)


@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("kept", [torch.float16, torch.float32])
def test_an_autoencoder_is_asked_for_its_type_once(kept, upcast):
    """Which walks through its modules; one that overflows in float16 is upcast meanwhile."""
    vae = HalfVae(kept, upcast)
    pipe = SimpleNamespace(vae=vae)
    DECODERS["StableDiffusionPipeline"].run(pipe, torch.zeros(1, 4, 2, 2, dtype=kept), {})
    used = torch.float32 if upcast else kept
    assert vae.used == [(used, used)] and vae.kept == kept and vae.asked == 1


def test_a_cloud_without_terms_is_not_weighed(monkeypatch):
    counted, usual = [], Cloud.reweight

    def reweight(self, d):
        counted.append(d)
        usual(self, d)

    monkeypatch.setattr(Cloud, "reweight", reweight)
    mean = as_reward(lambda x: x.mean(1), name="mean", inputs="latents")
    path = Grid.vp(5, prediction="score")
    for terms, times in (((), 0), ((Tilt(mean),), 5)):
        counted.clear()
        found = sample(lambda x, a, s: -x, path, *terms, shape=(2,), particles=3, seed=0)
        assert len(counted) == times and found.log_w.shape == (1, 3)
        equal = [float(step.ess) == pytest.approx(3) for step in found.trace]
        assert equal == [not terms] * 5

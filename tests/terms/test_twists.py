"""Intermediate twists of `Tilt`, where the law can't show a slip since the last one repairs it."""

import math
from contextlib import nullcontext

import pytest
import torch

from fkdiff import Grid, Resample, Tilt, as_reward, sample
from fkdiff.terms import RepairWarning


def normal(x, alpha, sigma):
    return -x / (alpha**2 + sigma**2)


def run(tilt, **settings):
    call = {"shape": (1,), "prompts": 3, "particles": 6, "seed": 1, **settings}
    return sample(normal, Grid.vp(8, prediction="score"), tilt, **call)


def recorded(values, **settings):
    """A tilt that notes, at each transition, its reward, its log-twist and its state."""
    notes = []

    class Noted(Tilt):
        def log_twist(self, step, state):
            twist, new = super().log_twist(step, state)
            notes.append((step, step.score(self._reward), twist, new))
            return twist, new

    return Noted(as_reward(values, name="r", inputs="latents"), **settings), notes


def test_before_the_end_a_dead_particle_is_3_below_the_least():
    tilt, notes = recorded(lambda x: x[:, 0].where(x[:, 0] > -0.2, -math.inf), scale=2.0)
    run(tilt, resample=Resample(ess=0.5, window=(0, 1)))
    seen = 0
    for step, rewards, twist, _ in notes:
        for r, t in zip(2 * rewards, twist, strict=True):
            broken = r.isneginf()
            seen += int(broken.any() and not broken.all() and not step.final)
            if step.final:
                assert torch.equal(t, r)
            elif not broken.all():
                least = r[~broken].min()
                assert torch.equal(t, torch.where(broken, least - 3, r))
    assert seen > 3


def test_the_adaptive_share_never_falls():
    """A direction that grows would ask for a smaller share; what is in the weights stays in."""
    calls = []

    def growing(x):
        calls.append(1)
        return x[:, 0] * (1.0 if len(calls) < 4 else 30.0)

    tilt, notes = recorded(growing, schedule="adaptive", adaptive_ess=0.9, scale=2.0)
    run(tilt, resample=Resample(ess=0.5, window=(0, 1)))
    shares = torch.stack([new["share"].reshape(3, 6)[:, 0] for *_, new in notes[:-1]])
    assert (shares.diff(dim=0) >= 0).all()
    assert (shares[2] > 0).all() and (shares[3] == shares[2]).all()  # held by what it was


POTENTIALS = {
    "difference": lambda rho: rho,
    "current": lambda rho: rho.cumsum(0),
    "sum": lambda rho: rho.cumsum(0).cumsum(0),
    "max": lambda rho: rho.cummax(0).values.cumsum(0),
    "none": lambda rho: rho * 0,
}


@pytest.mark.parametrize("potential", POTENTIALS)
def test_each_potential_is_its_formula(potential):
    """Without resampling a row is one particle throughout."""
    tilt, notes = recorded(lambda x: x[:, 0].sin(), potential=potential, scale=1.5)
    # Rewards are looked at only where resampling can fire: it can, but never does.
    with pytest.warns(RepairWarning) if potential == "sum" else nullcontext():
        run(tilt, resample=Resample(ess=1e-9, window=(0, 1)))
    rho = 1.5 * torch.stack([rewards for _, rewards, *_ in notes])
    twists = torch.stack([twist for *_, twist, _ in notes])
    torch.testing.assert_close(twists[:-1], POTENTIALS[potential](rho[:-1]).double())
    torch.testing.assert_close(twists[-1], rho[-1].double())


def test_a_schedule_is_the_share_of_the_scale():
    tilt, notes = recorded(lambda x: x[:, 0].sin(), schedule=lambda p: p**2, scale=1.5)
    run(tilt, resample=Resample(ess=1e-9, window=(0, 1)))
    for step, rewards, twist, _ in notes:
        share = 1.0 if step.final else step.progress**2
        assert 0 < step.progress <= 1
        torch.testing.assert_close(twist, share * 1.5 * rewards.double())

"""The contraction factor against chains that are really run, and against its closed forms."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from fkdiff.policy import contraction_factor
from fkdiff.policy.denoising import denoise
from tests.policy import toy


def survives(levels, plan, spread: float) -> float:
    """What is left of a unit difference between two chunks that share all noise."""
    net = toy.Gaussian(levels, spread)
    x = torch.tensor([[[0.3]], [[1.3]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(1, 1, 1, generator=generator, dtype=like.dtype).expand(like.shape)

    low, high = denoise(net, levels, plan, x, torch.full((2, 1), 0.7), noise).flatten().tolist()
    return high - low


@pytest.mark.parametrize("solver", [toy.ddpm, toy.ddim, toy.flow])
@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0])
@pytest.mark.parametrize(("start", "evaluations"), [(3, 3), (20, 1), (40, 7), (60, None)])
def test_is_what_a_chain_does(solver, spread, start, evaluations):
    levels = solver()
    plan = levels.plan(start, evaluations)
    assert survives(levels, plan, spread) == pytest.approx(float(contraction_factor(plan, spread)))


@pytest.mark.parametrize("spread", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("start", [2, 6, 26, 80])
def test_closed_forms(spread, start):
    levels = toy.ddpm()
    alpha, sigma = levels.alpha[start - 1], levels.sigma[start - 1]
    power = (alpha * spread) ** 2 + sigma**2
    for evaluations in (1, 2, None):  # DDPM telescopes, whatever it visits
        factor = contraction_factor(levels.plan(start, evaluations), spread)
        assert float(factor) == pytest.approx(alpha * spread**2 / power)
    assert float(contraction_factor(toy.ddim().plan(start, 1), spread)) == pytest.approx(
        alpha * spread**2 / power
    )


def test_ddim_limit_is_weaker_than_ddpm():
    levels = toy.ddim()
    alpha, sigma, spread = levels.alpha[25], levels.sigma[25], 0.1
    limit = spread / math.sqrt((alpha * spread) ** 2 + sigma**2)
    assert float(contraction_factor(levels.plan(26), spread)) == pytest.approx(limit, rel=0.25)
    assert float(contraction_factor(levels.plan(26), spread)) > 3 * float(
        contraction_factor(toy.ddpm().plan(26), spread)
    )


def test_briefed_numbers():
    """C(K') of the cosine schedule at s = .02, .05, .1, .3, 1."""
    spreads = torch.tensor([0.02, 0.05, 0.1, 0.3, 1.0])
    for level, numbers in {
        3: [0.068, 0.31, 0.65, 0.95, 1.0],
        15: [0.006, 0.035, 0.13, 0.58, 0.97],
        25: [0.002, 0.014, 0.053, 0.34, 0.91],
    }.items():
        found = contraction_factor(toy.ddpm().plan(level + 1), spreads)
        assert torch.allclose(found, torch.tensor(numbers).double(), atol=8e-3)


def test_refuses_spreads_that_are_not_numbers():
    with pytest.raises(ValueError, match="spread must be"):
        contraction_factor(toy.ddpm().plan(3), torch.tensor([0.1, float("nan")]))


@pytest.mark.parametrize("count", [4, 10, 100])
def test_steps_are_those_of_diffusers(count):
    """Same network, same noise: our loop and the scheduler's own, level by level."""
    for levels, scheduler in (
        (toy.ddpm(), DDPMScheduler(**toy.COSINE)),
        (toy.ddim(), DDIMScheduler(**toy.COSINE, timestep_spacing="trailing")),
        (toy.flow(), FlowMatchEulerDiscreteScheduler(100, shift=2.0)),
    ):
        net = toy.Gaussian(levels, 0.4)
        plan = levels.plan(100, count)
        x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
        seen = torch.tensor([[0.5], [-1.0], [0.0]])
        if isinstance(scheduler, DDPMScheduler):
            scheduler.set_timesteps(timesteps=list(plan.timesteps))
        elif isinstance(scheduler, DDIMScheduler):
            scheduler.set_timesteps(count)
        else:  # the table is already shifted; sigmas are shifted once more
            own = torch.tensor([path.sigma for path in plan.path], dtype=torch.float64)
            scheduler.set_timesteps(sigmas=(own / (2 - own)).tolist())
        assert scheduler.timesteps.tolist() == pytest.approx(list(plan.timesteps), rel=1e-5)
        ours, theirs = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
        ran = denoise(
            net, levels, plan, x, seen, lambda z, g=ours: torch.randn(z.shape, generator=g)
        )
        keywords = {"generator": theirs} if isinstance(scheduler, DDPMScheduler) else {}
        for t in scheduler.timesteps:
            output = net(x, t.expand(3), seen)
            x = scheduler.step(output, t, x, **keywords).prev_sample
        assert torch.allclose(ran, x, atol=2e-4)

"""The automatic choice of K', against errors that are really made."""

import pytest
import torch

from fkdiff.policy import Calibration, ChunkSampler, Recording, WarmStart, calibrate
from tests.policy import toy
from tests.policy.test_warm_start import calibrated

SPREAD, STEP = 0.1, 0.15


def recordings(episodes: int = 40, steps: int = 12) -> list[Recording]:
    """Decisions about a mean that moves by STEP: the repeated last chunk is off by so much."""
    generator = torch.Generator().manual_seed(3)
    mean = STEP * torch.arange(steps, dtype=torch.float32)
    made = []
    for _ in range(episodes):
        noise = SPREAD * torch.randn(steps, 4, 2, generator=generator)
        made.append(Recording(mean[:, None], mean[:, None, None] + noise))
    return made


@pytest.fixture(scope="module")
def measured() -> Calibration:
    levels = toy.ddpm()
    return calibrate(toy.Gaussian(levels, SPREAD), levels, recordings(), draws=8, evaluations=None)


def chain_spread() -> float:
    """Deviation after all DDPM steps, by Bayes' rule."""
    plan, variance = toy.ddpm().plan(100), 1.0
    for path in plan.path:
        gain = path.alpha * SPREAD**2 / (path.alpha**2 * SPREAD**2 + path.sigma**2)
        beta = 1 - (path.alpha / path.alpha_next) ** 2
        to_x0 = path.alpha_next * beta / path.sigma**2
        to_x = path.alpha / path.alpha_next * path.sigma_next**2 / path.sigma**2
        variance = (to_x0 * gain + to_x) ** 2 * variance
        variance += beta * path.sigma_next**2 / path.sigma**2
    return variance**0.5


def test_spread_and_error_are_recovered(measured):
    own = chain_spread()  # of DDPM's own discretised law
    assert own == pytest.approx(SPREAD, rel=0.15)
    assert measured.tolerance == pytest.approx(own / 10, rel=0.02)
    error = torch.tensor(measured.error).square().mean().sqrt().item()
    # The recorded chunk's noise, and that of the mean it is compared with.
    noise = SPREAD**2 + own**2 / 8
    assert error == pytest.approx((STEP**2 + noise) ** 0.5, rel=0.05)
    assert measured.observation_scale == pytest.approx((STEP,), rel=1e-4)
    assert measured.jump == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("evaluations", [1, 3, None])
@pytest.mark.parametrize("solver", [toy.ddim, toy.ddpm])
def test_choice_is_the_least_level_that_will_do(solver, evaluations):
    levels, warm = solver(), WarmStart(evaluations=evaluations, tolerance=0.02)
    calibration = calibrated()
    choice = calibration.choose(levels, warm)
    assert choice.remaining <= 0.02 < calibration.remaining(levels, choice.start - 1, warm)
    assert f"K' = {choice.start} of 100" in choice.explain()


@pytest.mark.parametrize("start", [10, 30])
@pytest.mark.parametrize("evaluations", [1, 4])
def test_predicted_remaining_error_is_made(start, evaluations):
    """A guess that is off by a known error: what is left of it after a warm decision."""
    levels, error = toy.ddim(), 0.5
    policy = ChunkSampler(
        toy.Gaussian(levels, SPREAD),
        levels,
        (1, 1),
        WarmStart(start=start, evaluations=evaluations),
    )
    ids, seen = list(range(4000)), torch.full((4000, 1), 0.7)
    policy.memory.keep(ids, torch.full((4000, 1, 1), 0.7 + error), seen)
    left = policy.decide(seen, executed=0).chunks.mean() - 0.7
    wanted = calibrated(spread=(SPREAD,), error=(error,)).remaining(levels, start, policy.warm)
    assert left.item() == pytest.approx(wanted, rel=0.1, abs=2e-3)


def test_errors_gather_in_a_warm_loop():
    """The mean moves at every decision: what is left of it adds up, as predicted."""
    levels, drift, warm = toy.ddim(), 0.2, WarmStart(start=9)
    policy = ChunkSampler(toy.Gaussian(levels, SPREAD), levels, (8, 1), warm)
    ids, count = list(range(3000)), 3000
    for step in range(12):
        seen = torch.full((count, 1), drift * step)
        chunks = policy.decide(seen, ids).chunks
    left = (seen[:, 0] - chunks[:, 0, 0]).mean().item()
    facts = {"spread": (SPREAD,), "error": (drift,)}
    wanted = calibrated(**facts, horizon=8).remaining(levels, 9, warm)
    alone = calibrated(**facts, horizon=1).remaining(levels, 9, warm)
    assert left == pytest.approx(wanted, rel=0.03)
    assert wanted > 1.2 * alone  # one decision's error isn't all there is


def test_weaker_solver_or_wider_actions_need_more_levels():
    tight, wide = calibrated(spread=(0.05,) * 4), calibrated(spread=(0.3,) * 4)
    warm = WarmStart(evaluations=None, tolerance=0.02)
    ddpm, ddim = toy.ddpm(), toy.ddim()
    assert tight.choose(ddpm, warm).start < wide.choose(ddpm, warm).start
    assert tight.choose(ddpm, warm).start < tight.choose(ddim, warm).start


def test_hopeless_guesses_are_never_warm():
    calibration = calibrated(spread=(5.0,), error=(9.0,))
    choice = calibration.choose(toy.ddim(), WarmStart(tolerance=1e-6, evaluations=None))
    assert choice.start == 100 and "cold" in choice.explain()
    levels = toy.ddim()
    policy = ChunkSampler(
        toy.Gaussian(levels, 5.0), levels, (4, 2), WarmStart(tolerance=1e-6), calibration
    )
    policy.decide(torch.zeros(1, 2))
    assert policy.decide(torch.zeros(1, 2)).cold.item()


def test_saves_itself(measured, tmp_path):
    file = tmp_path / "calibration.json"
    measured.save(file)
    assert Calibration.load(file) == measured
    file.write_text("{}")
    with pytest.raises(ValueError, match="isn't a calibration"):
        Calibration.load(file)


def test_what_is_missing_is_named():
    levels = toy.ddim()
    net = toy.Gaussian(levels, SPREAD)
    with pytest.raises(ValueError, match="got 'auto'"):
        ChunkSampler(net, levels, (4, 2), WarmStart())
    with pytest.raises(ValueError, match="jump must have a calibration"):
        ChunkSampler(net, levels, (4, 2), WarmStart(start=3, jump=2.0))
    with pytest.raises(ValueError, match="two consecutive decisions"):
        calibrate(net, levels, [Recording(torch.zeros(1, 1), torch.zeros(1, 4, 2))])

"""The law of warm decisions, what is remembered and forgotten, and bad input."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from fkdiff.policy import ChunkSampler, DiscreteActions, Levels, WarmStart, shifted
from fkdiff.policy.calibration import Calibration
from fkdiff.policy.denoising import denoise
from tests.exact import assert_mean
from tests.policy import toy

N, SPREAD, MEAN = 20_000, 0.2, 0.6


def warm_samples(warm: WarmStart, guess: torch.Tensor, plan=None) -> torch.Tensor:
    """Outcomes of warm decisions from given guesses, DDPM, shape (N,)."""
    levels = toy.ddpm()
    plan = plan or levels.plan(int(warm.start), warm.evaluations)
    generator = torch.Generator().manual_seed(5)

    def noise(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    first, guess = plan.path[0], guess.double()[:, None, None]
    x = warm.start_from(guess, first.alpha, first.sigma, noise(guess))
    seen = torch.full((len(guess), 1), MEAN)
    return denoise(toy.Gaussian(levels, SPREAD), levels, plan, x, seen, noise).flatten()


def data_guess() -> torch.Tensor:
    return MEAN + SPREAD * torch.randn(N, generator=torch.Generator().manual_seed(4))


def chain_law(plan, told: list[int], mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance after DDPM steps on the exact network, by Bayes' rule.

    Arguments:
        plan: The transitions.
        told: The level that the network is told at each, counted from 0.
        mean: Mean of the noisy action at the first.
        variance: Its variance.
    """
    table = toy.ddpm()
    for level, path in zip(told, plan.path, strict=True):
        alpha, sigma = table.alpha[level], table.sigma[level]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        # The posterior of DDPM, as written in its paper.
        beta = 1 - (path.alpha / path.alpha_next) ** 2
        to_x0 = path.alpha_next * beta / path.sigma**2
        to_x = path.alpha / path.alpha_next * path.sigma_next**2 / path.sigma**2
        mean = to_x0 * (MEAN + gain * (mean - alpha * MEAN)) + to_x * mean
        variance = (to_x0 * gain + to_x) ** 2 * variance
        variance += beta * path.sigma_next**2 / path.sigma**2
    return mean, variance


def assert_law(out: torch.Tensor, law: tuple[float, float]) -> None:
    assert_mean(out, law[0])
    assert_mean((out - law[0]) ** 2, law[1])


@pytest.mark.parametrize("start", [5, 20])
@pytest.mark.parametrize("noise", ["forward", "none", 0.0, 0.5])
def test_law_is_that_of_the_chain_from_the_start(start, noise):
    """Data as guesses, whatever is done to them: the chain's law from there, and no other."""
    warm = WarmStart(start=start, evaluations=None, noise=noise)
    plan, told = toy.ddpm().plan(start), list(range(start - 1, -1, -1))
    alpha, sigma = plan.path[0].alpha, plan.path[0].sigma
    share = {"forward": 1.0, "none": 0.0}.get(noise, noise)
    scale = 1.0 if noise == "none" else alpha
    begun = scale * MEAN, (scale * SPREAD) ** 2 + (share * sigma) ** 2
    out = warm_samples(warm, data_guess())
    assert_law(out, chain_law(plan, told, *begun))
    right = chain_law(plan, told, alpha * MEAN, (alpha * SPREAD) ** 2 + sigma**2)
    if noise == "forward":
        assert right[0] == pytest.approx(MEAN)
        assert right[1] == pytest.approx(SPREAD**2, rel=0.2)  # DDPM's own discretisation
    else:  # negative control: too little noise isn't noticed by the network
        with pytest.raises(AssertionError, match="z"):
            assert_law(out, right)


def test_published_variant_is_reproduced_and_inconsistent():
    told = [25, 20, 15, 10, 5, 0]
    plan = toy.ddpm().skipping(told)
    out = warm_samples(WarmStart(start=26, noise="none"), data_guess(), plan)
    assert_law(out, chain_law(plan, told, MEAN, SPREAD**2))
    ends = [path.sigma_next for path in plan.path[:-1]]
    assert all(end > 1.05 * path.sigma for end, path in zip(ends, plan.path[1:], strict=True))
    consistent = toy.ddpm().plan(26, 6)
    assert [p.sigma_next for p in consistent.path[:-1]] == [p.sigma for p in consistent.path[1:]]
    alpha, sigma = consistent.path[0].alpha, consistent.path[0].sigma
    levels = [int(t) for t in consistent.timesteps]
    law = chain_law(consistent, levels, alpha * MEAN, (alpha * SPREAD) ** 2 + sigma**2)
    assert law[0] == pytest.approx(MEAN)
    with pytest.raises(AssertionError, match="z"):
        assert_law(out, law)


def test_published_schedule_swap_is_inconsistent():
    """The released evaluation swaps in linear betas: other noise than the network was told of."""
    swapped, trained = Levels.of(DDPMScheduler(100, clip_sample=False)), toy.ddpm()
    assert swapped.sigma[25] == pytest.approx(0.256, abs=1e-3)
    assert trained.sigma[25] == pytest.approx(0.405, abs=1e-3)
    assert (swapped.sigma[-1], trained.sigma[-1]) == pytest.approx((0.798, 1.0), abs=1e-3)
    told = list(range(99, -1, -1))
    mean, variance = chain_law(trained.plan(100), told, 0.0, 1.0)
    assert mean == pytest.approx(MEAN, abs=1e-3)
    assert variance == pytest.approx(SPREAD**2, rel=0.2)
    wrong_mean, wrong_variance = chain_law(swapped.plan(100), told, 0.0, 1.0)
    assert wrong_mean == pytest.approx(MEAN, abs=5e-3)
    assert wrong_variance < SPREAD**2 / 3  # actions lose two thirds of their variety


def sampler(warm: WarmStart | None = None, spread: float = 0.3, **keywords) -> ChunkSampler:
    levels = toy.ddim()
    return ChunkSampler(toy.Gaussian(levels, spread), levels, (4, 2), warm, **keywords)


def obs(*values: float) -> torch.Tensor:
    return torch.tensor([[value, 0.0] for value in values])


def test_reset_forgets():
    """After a reset the next decision can't depend on the chunk before it."""
    outcomes = {}
    for forget in (True, False):
        chunks = []
        for first in (-3.0, 3.0):
            policy = sampler(WarmStart(start=10))
            policy.decide(obs(first))
            if forget:
                policy.reset([0])
            chunks.append(policy.decide(obs(0.0)))
        outcomes[forget] = torch.equal(chunks[0].chunks, chunks[1].chunks), chunks[0].cold.item()
    assert outcomes == {True: (True, True), False: (False, False)}


def test_full_start_is_cold_and_ignores_the_guess():
    chunks = []
    for first in (-3.0, 3.0):
        policy = sampler(WarmStart(start=100))
        policy.decide(obs(first))
        chunks.append(policy.decide(obs(0.0)))
    assert chunks[0].cold.item() and torch.equal(chunks[0].chunks, chunks[1].chunks)
    assert chunks[0].evaluations.tolist() == [10]


@pytest.mark.parametrize("executed", range(5))
@pytest.mark.parametrize("fill", ["repeat", "extrapolate", "noise"])
def test_shift_of_any_size(executed, fill):
    chunk = torch.arange(8.0).view(1, 4, 2)
    noise = torch.full((1, 4, 2), 9.0)
    moved = shifted(chunk, executed, fill, noise)
    assert torch.equal(moved[:, : 4 - executed], chunk[:, executed:])
    tail = moved[0, 4 - executed :]
    steps = torch.arange(1, executed + 1)[:, None]
    expected = {
        "repeat": chunk[0, 3:],
        "extrapolate": chunk[0, 3] + 2 * steps,
        "noise": noise[0, 0],
    }
    assert torch.equal(tail, expected[fill].expand_as(tail))


def test_environments_end_at_different_times():
    """Whoever stays decides as if it had been alone."""
    together, alone = sampler(WarmStart(start=15)), sampler(WarmStart(start=15))
    runs = [
        ([0, 1, 2], (0.0, 1.0, 2.0)),
        ([2, 0], (2.1, 0.1)),
        ([0], (0.2,)),
        ([0, 1], (0.3, 9.0)),
    ]
    for index, (ids, seen) in enumerate(runs):
        if index == 3:
            together.reset([1])
        decision = together.decide(obs(*seen), ids)
        own = alone.decide(obs(seen[ids.index(0)]), [0])
        assert torch.allclose(decision.chunks[ids.index(0)], own.chunks[0], atol=1e-6)
    assert decision.cold.tolist() == [False, True]


@pytest.mark.parametrize("variant", ["clip", "scale"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 0.6)])
def test_discrete_maps_round_trip(variant, low, high):
    maps = DiscreteActions((1, 3), low, high, variant)
    values = torch.tensor([low, high])
    executed = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    executed[..., [1, 3]] = values[torch.randint(2, (6, 4, 2))]
    model = maps.to_model(executed)
    assert torch.allclose(maps.to_executed(model), executed)
    assert torch.allclose(maps.to_executed(maps.to_guess(model)), executed)
    assert torch.equal(model[..., [0, 2, 4]], executed[..., [0, 2, 4]])
    gap = maps.to_guess(model)[..., 1].unique().diff()
    assert float(gap) == pytest.approx((high - low if variant == "clip" else 2.0) / 10)


def test_discrete_guess_can_cross():
    """With both values drawn together a decision follows a switch that a plain guess misses."""
    levels = toy.ddim()
    missed = {}
    for name, maps in (("plain", None), ("clip", DiscreteActions((0,)))):
        policy = ChunkSampler(
            toy.TwoModes(levels, 0.05), levels, (1, 1), WarmStart(start=60, discrete=maps)
        )
        policy.decide(torch.zeros(400, 1))
        before = policy.memory.chunks(list(range(400))).sign()
        after = policy.decide(torch.zeros(400, 1), executed=0).chunks.sign()
        missed[name] = float((before == after).float().mean())
    assert missed["clip"] < missed["plain"] - 0.1


def calibrated(**changes) -> Calibration:
    facts = {
        "spread": (0.1,) * 4,
        "error": (0.2,) * 4,
        "executed": 1,
        "horizon": 1,
        "observation_scale": (0.1, 0.1),
        "distances": (0.2, 0.2),
    }
    return Calibration(**(facts | changes))


def test_cold_after_a_jump_of_the_observation():
    policy = sampler(WarmStart(start=10, jump=3.0), calibration=calibrated())
    policy.decide(obs(0.0, 0.0))
    assert policy.decide(obs(0.1, 0.7)).cold.tolist() == [False, True]


def test_a_jump_of_one_number_among_many_is_noticed():
    """An object that is pushed moves few of the numbers; their average change stays usual."""
    usual = calibrated(observation_scale=(0.1,) * 43)
    policy = sampler(WarmStart(start=10, jump=usual.jump), calibration=usual)
    before = torch.zeros(2, 43)
    policy.decide(before)
    after = before + 0.05
    after[1, 5] = 0.3
    assert policy.decide(after).cold.tolist() == [False, True]
    assert ((after - before)[1] / 0.1).square().mean().sqrt() < 1  # what an average would say


def test_cold_where_the_guess_was_far_off():
    policy = sampler(WarmStart(start=30, max_error=0.5), spread=0.05)
    policy.decide(obs(0.0, 0.0))
    decision = policy.decide(obs(0.1, 2.0))
    assert decision.cold.tolist() == [False, True]
    assert decision.evaluations.tolist() == [1, 11]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"observation": torch.zeros(1, 3)}, "observation must hold 2 numbers"),
        ({"observation": torch.zeros(2)}, "observation must have shape"),
        ({"observation": obs(float("nan"))}, "observation must be finite"),
        ({"executed": 5}, "executed must be in"),
        ({"executed": -1}, "executed must be in"),
        ({"env_ids": [0, 1]}, "env_ids must be"),
    ],
)
def test_bad_input_changes_nothing(bad, words):
    policy, untouched = sampler(WarmStart(start=10)), sampler(WarmStart(start=10))
    for one in (policy, untouched):
        one.decide(obs(0.5))
    with pytest.raises(ValueError, match=words):
        policy.decide(**({"observation": obs(0.5)} | bad))
    assert torch.equal(policy.decide(obs(0.6)).chunks, untouched.decide(obs(0.6)).chunks)


def test_last_safe_chunk_is_held_only_if_asked():
    policy = sampler(WarmStart(start=10, on_bad="hold"))
    first = policy.decide(obs(0.5, 1.0))
    second = policy.decide(obs(float("nan"), 1.0), executed=2)
    assert second.held.tolist() == [True, False] and second.evaluations.tolist() == [0, 1]
    assert torch.equal(second.chunks[0], shifted(first.chunks[0], 2, "repeat"))
    with pytest.raises(ValueError, match="no chunk to hold"):
        policy.decide(obs(float("nan")), [7])


def test_schedulers_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="variance_type"):
        Levels.of(DDPMScheduler(100, variance_type="fixed_large"))
    with pytest.raises(ValueError, match="thresholding"):
        Levels.of(DDIMScheduler(100, thresholding=True))
    with pytest.raises(ValueError, match="zero terminal"):
        Levels.of(DDIMScheduler(100, rescale_betas_zero_snr=True))
    assert Levels.of(EulerDiscreteScheduler(100)).eta == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        {"start": 0},
        {"evaluations": 0},
        {"noise": 1.5},
        {"noise": "some"},
        {"fill": "zeros"},
        {"tolerance": 0.0},
        {"jump": -1.0},
        {"on_bad": "guess"},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        WarmStart(**settings)

"""Runs compared with runs: changes that must not matter, and cases that are something simpler.

No closed form is needed here, and nothing is left to chance: most comparisons are bit for bit.
"""

import pytest
import torch
from torch.testing import assert_close

from fkdiff import Tilt, as_reward, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.smc import Resample
from fkdiff.taps import TapError
from tests.analytic import CHAINS, GAUSSIAN, MIXTURE, cloud, latent_reward, pipeline, resampled
from tests.exact import assert_mean

PROMPTS = ["a", "b", "c"]
LENGTH = latent_reward(lambda x: x.sum(1), name="sum")
SPREAD = latent_reward(lambda x: x[:, 0] * x[:, 1] - x[:, 1] ** 2, name="spread")
FIRST = latent_reward(lambda x: 0.3 * x[:, 0].sin(), name="first")
FEW = ["ddim_eta1", "sde_dpm", "flow_replaced"]


def run(chain, *terms, data=GAUSSIAN, prompts=PROMPTS, **settings):
    return cloud(chain, data, *terms, prompts=prompts, seed=11, **settings)


def assert_same(a, b):
    """The same bits: samples, weights and history."""
    assert torch.equal(a.latents, b.latents)
    assert torch.equal(a.log_w, b.log_w)
    for left, right in zip(a.rows, b.rows, strict=True):
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right)


def stock(chain, particles, steps=8):
    """The unsteered pipeline with the generators of the slots, (P, K, d, 1, 1)."""
    pipe = pipeline(chain, GAUSSIAN)
    out = pipe(
        PROMPTS,
        num_inference_steps=steps,
        num_images_per_prompt=particles,
        eta=CHAINS[chain].eta,
        generator=slot_generators(11, len(PROMPTS), particles),
    )
    return out.images.unflatten(0, (len(PROMPTS), particles))


@pytest.mark.parametrize("chain", CHAINS)
def test_one_particle_is_the_plain_sampler(chain):
    result = run(chain, Tilt(LENGTH, scale=5.0), particles=1)
    assert torch.equal(result.latents, stock(chain, 1))
    assert result.settings["replaced_step"] is None
    assert_close(result.log_z, 5 * result.rewards["sum"].flatten())


@pytest.mark.parametrize("chain", CHAINS)
def test_scale_zero_is_the_plain_sampler(chain):
    result = run(chain, Tilt(LENGTH, scale=0.0), stochastic=False)
    assert torch.equal(result.latents, stock(chain, 6))
    assert result.log_w.abs().max() == 0


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("resample", [None, Resample(ess=0), Resample(steps=())])
def test_without_resampling_it_is_importance_sampling(chain, resample):
    """Plain samples, weighted: no trigger can fire, so not even a deterministic step changes."""
    result = run(chain, Tilt(LENGTH, scale=3.0), resample=resample)
    assert torch.equal(result.latents, stock(chain, 6))
    assert_close(result.log_w, 3 * result.rewards["sum"])
    assert result.settings["replaced_step"] is None


@pytest.mark.parametrize("chain", CHAINS)
def test_best_of_n_is_the_best_of_the_plain_samples(chain):
    best = Tilt(LENGTH, potential="none")
    pipe = pipeline(chain, GAUSSIAN)
    steered = steer(pipe, best, particles=6, resample=None, select="best", seed=11)
    out = steered(PROMPTS, num_inference_steps=8, eta=CHAINS[chain].eta)
    plain = stock(chain, 6)
    winner = plain.flatten(2).sum(2).argmax(1)
    assert torch.equal(out.images, plain[torch.arange(3), winner])
    assert out.steering.cost.reward_calls == {"sum": 18}


@pytest.mark.parametrize("chain", FEW)
def test_same_seed_same_bits(chain):
    settings = {"select": "sample"}
    first = run(chain, Tilt(LENGTH, scale=2.0), **settings)
    assert resampled(first)
    second = run(chain, Tilt(LENGTH, scale=2.0), **settings)
    assert_same(first, second)
    assert torch.equal(first.selected, second.selected)
    other = cloud(chain, GAUSSIAN, Tilt(LENGTH, scale=2.0), prompts=PROMPTS, seed=12)
    assert not torch.equal(first.latents, other.latents)


def test_a_sample_is_drawn_by_weight():
    """Of the particles of a cloud, each comes out as often as its weight says."""
    settings = {
        "prompts": 400,
        "select": "sample",
        "resample": Resample(ess=0.95, window=(0.2, 0.6)),
    }
    result = run("ddim_eta1", Tilt(LENGTH, scale=2.0), **settings)
    assert resampled(result)
    chosen = torch.nn.functional.one_hot(result.selected[:, 0], 6).double()
    assert_mean(chosen - result.weights, torch.zeros(6))
    likely = (chosen * result.weights).sum(1) - result.weights.square().sum(1)
    assert_mean(likely, 0.0)


def test_all_come_out_best_first():
    chain = CHAINS["ddim_eta1"]
    steered = steer(pipeline(chain, GAUSSIAN), Tilt(LENGTH), particles=6, select="all", seed=11)
    out = steered(PROMPTS, num_inference_steps=8, eta=chain.eta)
    images, result = out.images.unflatten(0, (3, 6)), out.steering
    places = torch.arange(3)[:, None], result.order
    assert torch.equal(images, result.latents[places])
    assert (images.flatten(2).sum(2).diff(dim=1) <= 0).all()


@pytest.mark.parametrize("micro_batch", [1, 4, 5])
@pytest.mark.parametrize("chain", FEW)
def test_another_micro_batch_is_close(chain, micro_batch):
    whole = run(chain, Tilt(SPREAD, scale=2.0))
    parts = run(chain, Tilt(SPREAD, scale=2.0), micro_batch=micro_batch)
    assert_close(whole.latents, parts.latents)
    assert_close(whole.log_w, parts.log_w)


@pytest.mark.parametrize("chain", FEW)
def test_prompts_never_mix(chain):
    """Prompt p of a batch is what it would be in any other batch that has it at place p."""

    def by_prompt(x, prompts):
        return x.flatten(1).sum(1) * torch.tensor([len(p) for p in prompts])

    tilt = Tilt(as_reward(by_prompt, inputs="latents"))
    together = run(chain, tilt, prompts=["a", "bbbb", "cc"])
    assert resampled(together)
    for others in (["a"], ["a", "bbbb"], ["a", "b", "cc"], ["aaaaaaa", "bbbb", "c"]):
        result = run(chain, tilt, prompts=others)
        for p, (here, there) in enumerate(zip(together.prompts, others, strict=False)):
            if here == there:
                assert torch.equal(together.latents[p], result.latents[p])
                assert torch.equal(together.log_w[p], result.log_w[p])


@pytest.mark.parametrize(
    "chain, schedule", [*((name, None) for name in FEW), ("ddim_eta1", "adaptive")]
)
def test_order_of_terms_is_irrelevant(chain, schedule):
    terms = [Tilt(r, scale=1.7, schedule=schedule) for r in (LENGTH, SPREAD, FIRST)]
    first = run(chain, *terms)
    assert resampled(first)
    for order in ((2, 1, 0), (1, 2, 0), (0, 2, 1)):
        assert_same(first, run(chain, *(terms[i] for i in order)))


@pytest.mark.parametrize("potential", ["difference", "current", "sum"])
def test_two_tilts_add(potential):
    """Two terms are one term on the sum of the rewards."""
    two = [Tilt(LENGTH, 1.0, potential), Tilt(SPREAD, 0.5, potential)]
    apart = run("ddim_eta1", *two)
    joined = run("ddim_eta1", Tilt(LENGTH + 0.5 * SPREAD, 1.0, potential))
    assert resampled(apart)
    assert_close(apart.latents, joined.latents)
    assert_close(apart.log_w, joined.log_w)


@pytest.mark.parametrize("chain", FEW)
def test_monitors_change_nothing(chain):
    alone = run(chain, Tilt(LENGTH, scale=2.0))
    watched = run(chain, Tilt(LENGTH, scale=2.0), monitor=[SPREAD, FIRST])
    assert_same(alone, watched)
    assert set(watched.rewards) == {"sum", "spread", "first"}
    assert_close(watched.rewards["spread"].flatten(), SPREAD(watched.latents.flatten(0, 1)))


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "current"])
def test_a_constant_changes_log_z_alone(potential):
    shifted = latent_reward(lambda x: x.sum(1) + 100.0)
    plain = run("ddim_eta1", Tilt(LENGTH, 2.0, potential))
    moved = run("ddim_eta1", Tilt(shifted, 2.0, potential))
    assert resampled(plain)
    assert_close(plain.latents, moved.latents)
    assert_close(plain.weights, moved.weights)
    assert_close(plain.log_z + 200.0, moved.log_z)


def test_calibration_is_an_affine_change_of_the_reward():
    stated = latent_reward(lambda x: x.sum(1), mean=0.7, sd=3.0)
    by_hand = latent_reward(lambda x: (x.sum(1) - 0.7) / 3.0)
    a, b = (run("flow_replaced", Tilt(r, scale=4.0)) for r in (stated, by_hand))
    assert_close(a.latents, b.latents)
    assert_close(a.log_w, b.log_w)


def test_draws_behind_a_reward_belong_to_the_row():
    """Of a linear reward the twist of many draws is known; copies share theirs."""
    seen = []

    class Watched(Tilt):
        def log_twist(self, step, state):
            twist, new = super().log_twist(step, state)
            if not step.final and step.may_resample:
                tau2 = step.path.sigma**2 / (step.path.alpha**2 + step.path.sigma**2)
                mean = step.x0.flatten(1).sum(1).reshape(twist.shape)
                seen.append((twist, 0.5 * mean + 0.5**2 * 2 * tau2 / 2, step.parents))
            return twist, new

    terms = Watched(LENGTH, scale=0.5, draws=4000)
    always = Resample("multinomial", ess=None, window=(0, 1))
    run("ddim_eta1", terms, prompts=["a"], resample=always, particles=8, steps=5)
    assert len(seen) > 1
    assert any(not torch.equal(parents, torch.arange(8)) for *_, parents in seen)
    for twist, exact, parents in seen:
        assert_close(twist, exact, atol=0.08, rtol=0)  # standard deviation below .015
        assert_close(twist, twist.flatten()[parents].reshape(twist.shape), atol=1e-9, rtol=0)
    one, two = (run("sde_dpm", Tilt(LENGTH, draws=3), micro_batch=size) for size in (None, 1))
    assert_close(one.log_w, two.log_w)
    assert torch.equal(one.log_w, run("sde_dpm", Tilt(LENGTH, draws=3)).log_w)


@pytest.mark.parametrize("draws", [0, -1])
def test_draws_must_be_positive(draws):
    with pytest.raises(ValueError, match=f"draws must be at least 1, got {draws}"):
        Tilt(LENGTH, draws=draws)


@pytest.mark.parametrize("chain", FEW)
def test_copies_separate(chain):
    """After resampling no two particles stay equal: noise belongs to slots, not to particles."""
    result = run(chain, Tilt(LENGTH, scale=4.0), resample=Resample(ess=None, window=(0, 0.7)))
    assert resampled(result)
    rows = result.latents.flatten(2)
    assert all(len(cloud.unique(dim=0)) == 6 for cloud in rows)


@pytest.mark.parametrize("chain", [name for name, chain in CHAINS.items() if chain.replaced])
def test_a_deterministic_step_is_refused_on_request(chain):
    with pytest.raises(TapError, match="deterministic.*stochastic=None"):
        run(chain, Tilt(LENGTH), stochastic=False)


def test_rewards_and_twists_are_those_of_the_samples():
    """Final scores belong to the particles that are returned, also after a last resampling."""
    last = Resample(ess=None, window=(0, 1))
    result = run("ddim_eta1_noisy_end", Tilt(LENGTH, scale=2.0), resample=last, data=MIXTURE)
    assert result.rows[-1] is not None
    assert_close(result.rewards["sum"], result.latents.flatten(2).sum(2))
    assert_close(result.log_twist, 2 * result.rewards["sum"])
    assert_close(result.log_w, result.log_z[:, None].expand_as(result.log_w))

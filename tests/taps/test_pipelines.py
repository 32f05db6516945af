"""Every set-up of `tests.tiny`, tapped: stock bits, exact lineages, nothing left behind.

The networks are tiny and random. Each pipeline is built once and must survive all its tests.
"""

import numpy as np
import pytest
import torch

import fkdiff.taps.decode
import fkdiff.taps.pipeline
from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.processes import predict_x0, sde_step
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.coefficients import prediction_type, separates_copies
from fkdiff.terms.reward import RewardError
from tests.taps.setups import (
    CALL,
    FIRST_ORDER,
    SEED,
    K,
    Watching,
    as_tensor,
    assert_near,
    brightness,
    network,
    plain_call,
    samples,
    shared,
    stock,
)
from tests.taps.toy import Script, tap
from tests.tiny import SETUPS, Tiny


@pytest.fixture(params=SETUPS)
def name(request):
    stock(request.param)  # before anything is steered
    return request.param


def test_without_terms_it_is_the_stock_call(name):
    tiny = shared(name)
    out = steer(tiny.pipe, particles=K, seed=SEED, select="all")(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(out), stock(name))
    assert out.steering.trace and out.steering.complete


def test_scale_0_is_the_stock_call(name):
    tiny = shared(name)
    term = Tilt(brightness(tiny), scale=0)
    steered = steer(tiny.pipe, term, particles=K, seed=SEED, select="all", stochastic=False)
    out = steered(**{**CALL, **tiny.call})
    assert torch.equal(as_tensor(out), stock(name))
    assert out.steering.log_w.eq(0).all()
    # The reward has looked at what the pipeline then returns: nothing is decoded twice.
    assert out.steering.cost.decodes == K
    assert torch.equal(out.steering.samples[0].flatten(), channels_first(out).flatten())


def channels_first(output) -> torch.Tensor:
    """DiT and DDPM return arrays (n, h, w, 3) whatever they are asked."""
    if isinstance(samples(output), np.ndarray) and samples(output).ndim == 4:
        return as_tensor(output).movedim(-1, 1)
    return as_tensor(output)


def test_a_resampled_run_is_its_lineages_and_decodes_as_the_pipeline_does(name, monkeypatch):
    """Noise follows the lineage here; looking at estimates on the way must not disturb the run."""
    tiny = shared(name)
    rows = {0: [2, 0, 0, 4, 4], 1: [0, 1, 1, 3, 2]}
    script = Script(K, rows, slot_generators(SEED, 1, K))
    run = tap(tiny.pipe, script, {**CALL, **tiny.rows(K)}, key=tiny.count)
    decoded = []

    def seen(step):
        table = run.decode(step.x0, tiny.inputs)
        with monkeypatch.context() as patch:
            patch.setattr(fkdiff.taps.decode, "DECODERS", {})
            assert run.inputs == tiny.inputs
            own_tail = run.decode(step.x0, tiny.inputs)
        assert torch.equal(own_tail, table), f"step {step.index}"
        decoded.append(table)

    script.seen = seen
    out = run()
    lineage, plain = torch.tensor(rows[0])[rows[1]], stock(name)
    assert float((plain[0] - plain[2]).abs().max()) > 1e-3 * float(plain.abs().max())
    assert_near(as_tensor(out), plain[lineage], 1e-6)
    assert len(decoded) == 3
    assert torch.equal(decoded[-1].flatten(), channels_first(out).flatten())


def test_micro_batches_change_rounding_only(name):
    tiny = shared(name)
    steered = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=2)
    out = steered(**{**CALL, **tiny.call})
    assert_near(as_tensor(out), stock(name), 1e-5)
    assert out.steering.cost.denoiser_evaluations == tiny.halves * K * len(out.steering.trace)


def test_a_controlnet_is_micro_batched_and_its_residuals_join_up():
    tiny, seen = shared("sd_controlnet"), []
    hook = tiny.pipe.controlnet.register_forward_hook(lambda m, a, out: seen.append(len(out[1])))
    try:
        steered = steer(tiny.pipe, particles=K, seed=SEED, select="all", micro_batch=2)
        out = steered(**{**CALL, **tiny.call})
    finally:
        hook.remove()
    assert seen == [4, 4, 2] * 3  # a guided pair for each particle
    assert_near(as_tensor(out), stock("sd_controlnet"), 1e-5)


def test_everything_is_put_back_when_a_reward_fails(name):
    assert_put_back(name, ZeroDivisionError, RewardError)


def test_everything_is_put_back_on_an_interrupt(sd):
    assert_put_back("sd", KeyboardInterrupt, KeyboardInterrupt)


def assert_put_back(name, error, raised):
    tiny = shared(name)
    before = dict(vars(tiny.pipe))
    kinds = [type(tiny.pipe.scheduler), type(network(tiny.pipe))]

    def failing(samples):
        if type(network(tiny.pipe)) is kinds[1]:  # the trial, before anything is changed
            return torch.zeros(len(samples))
        raise error

    term = Tilt(as_reward(failing, inputs=tiny.inputs), scale=1)
    steered = steer(tiny.pipe, term, particles=2, seed=SEED)
    with pytest.raises(raised):
        steered(**{**CALL, **tiny.call})
    assert steered.partial is not None and not steered.partial.complete
    after = vars(tiny.pipe)
    assert after.keys() == before.keys()
    assert after["scheduler"] is before["scheduler"]
    assert [type(tiny.pipe.scheduler), type(network(tiny.pipe))] == kinds
    assert "decode" not in vars(getattr(tiny.pipe, "vae", None) or network(tiny.pipe))
    assert torch.equal(plain_call(tiny), stock(name))


def test_a_steered_call_inside_a_steered_call_disturbs_nothing(name):
    tiny = shared(name)
    inner = steer(tiny.pipe, Tilt(brightness(tiny), scale=3), particles=2, seed=1)
    other = {"output_type": "pt", **tiny.call, "num_inference_steps": 2}
    if "guidance_scale" in other:
        other["guidance_scale"] = 1.5
    alone, nested = inner(**other), []

    def action(step):
        if not step.final:
            nested.append(inner(**other))
            if tiny.cond is not None:
                experts.append(len(step.experts))

    experts = []
    outer = steer(tiny.pipe, Watching(action), particles=K, seed=SEED, select="all")
    assert torch.equal(as_tensor(outer(**{**CALL, **tiny.call})), stock(name))
    for out in nested:
        assert torch.equal(as_tensor(out), as_tensor(alone))
    assert set(experts) == ({tiny.halves} if tiny.cond is not None else set())


class Tilted:
    """What a term sees of a run that resamples at every chance."""

    def __init__(self, tiny):
        self.reward, self.copies = brightness(tiny), []

    def look(self, step):
        """Copies begin a step alike and must end it apart, unless it is the last."""
        rows = torch.arange(len(step.x))
        twins = (rows != step.parents).nonzero().flatten().tolist()
        for i, j in ((i, int(step.parents[i])) for i in twins):
            if torch.equal(step.x[i], step.x[j]) and not step.final:
                self.copies.append(float((step.x_next[i] - step.x_next[j]).abs().max()))


def test_a_tilted_run_resamples_and_its_copies_separate(name):
    tiny, seen = shared(name), Tilted(shared(name))
    steered = steer(
        tiny.pipe,
        Tilt(seen.reward, scale=1000),
        Watching(seen.look),
        particles=3,
        seed=SEED,
        resample=Resample(ess=None, window=(0, 1)),
    )
    out = steered(**{**CALL, **tiny.call, "num_inference_steps": 4})
    native = separates_copies(tiny.pipe.scheduler, {})
    assert (out.steering.settings["replaced_step"] is None) == native
    assert seen.copies and min(seen.copies) > 1e-3
    rewards = out.steering.rewards["brightness"]
    assert out.steering.latents.isfinite().all()
    assert as_tensor(out).flatten().mean() == pytest.approx(float(rewards.max()), abs=1e-5)


def assert_steps_are_the_paths(tiny: Tiny, steps) -> None:
    """Estimate, alpha and sigma are right where a solver of first order moves as they say."""
    scheduler = tiny.pipe.scheduler
    if "mask_image" in tiny.call or not isinstance(scheduler, FIRST_ORDER):
        return
    # Cosmos' own solver stops at sigma .002; the path goes on to the estimate.
    stops = scheduler.config.get("final_sigmas_type") == "sigma_min"
    for step in steps[: len(steps) - stops]:
        exact = sde_step(step.x, step.estimate(), step.path, eta=0).mean
        assert_near(step.x_next, exact, 1e-5)


def assert_experts_tell_the_estimate(tiny: Tiny, steps) -> None:
    """Correctors read scores off the experts: they and the path must give the step's estimate."""
    for step in steps:
        mixed = sum(e.b * e.output for e in step.experts)
        if "mask_image" not in tiny.call:  # there the estimate has the known part pasted in
            assert_near(estimate(tiny.pipe.scheduler, step, mixed), step.estimate(), 1e-4)


def estimate(scheduler, step, mixed):
    alpha, sigma = step.path.alpha, step.path.sigma
    if hasattr(scheduler, "precondition_outputs"):
        return scheduler.precondition_outputs(step.x, mixed, torch.tensor(sigma))
    told = predict_x0(step.x, mixed, alpha, sigma, prediction_type(scheduler))
    return told.clamp(-1, 1) if scheduler.config.get("clip_sample") else told


def first_experts(tiny, monkeypatch, **more):
    """Experts of the first transition, and how far they are from what moved the particles."""
    residuals = []
    original = fkdiff.taps.pipeline.split_guidance

    def spy(outputs, mixed, rows, shards):
        pool = original(outputs, mixed, rows, shards)
        sum_ = sum(e.b * e.output for e in pool)
        residuals.append(float((sum_ - mixed[:rows]).norm() / mixed[:rows].norm()))
        return pool

    monkeypatch.setattr(fkdiff.taps.pipeline, "split_guidance", spy)
    script = Script(2)
    tap(tiny.pipe, script, {**CALL, **tiny.rows(2), **more}, key=tiny.count)()
    assert_steps_are_the_paths(tiny, script.steps)
    assert_experts_tell_the_estimate(tiny, script.steps)
    assert max(residuals) < tiny.rounding
    return {e.name: e for e in script.steps[0].experts}


def test_experts_are_told_apart_and_their_weight_is_the_guidance(name, monkeypatch):
    tiny = shared(name)
    if tiny.cond is None:
        with pytest.raises(TapError, match="isn't a linear mixture"):
            first_experts(tiny, monkeypatch)
        return
    pool = first_experts(tiny, monkeypatch)
    if tiny.cond == 1:
        assert list(pool) == ["cond"] and pool["cond"].b == 1
        return
    assert pool["cond"].b == pytest.approx(tiny.cond, rel=1e-4)
    assert pool["uncond"].b == pytest.approx(1 - tiny.cond, rel=1e-4)
    key = "prompt" if "prompt" in tiny.call else "class_labels"
    other = tiny.other
    if tiny.count is None:
        other = [other] * 2 if key == "prompt" else other * 2
    changed = first_experts(tiny, monkeypatch, **{key: other})
    assert_near(changed["uncond"].output, pool["uncond"].output, 1e-6)
    assert not torch.allclose(changed["cond"].output, pool["cond"].output)

"""Every scheduler of diffusers: history follows the lineage, noise levels and estimates are right.

The toy network acts on each number alone, so that "equal" means bit for bit.
"""

import importlib.util
from importlib.metadata import version

import diffusers
import pytest
import torch

from fkdiff.processes import Kernel, predict_x0
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.taps.coefficients import estimate_x0, separates_copies
from fkdiff.taps.scheduler import Call, permute_history, tapped_scheduler
from tests.taps.scheduler_cases import CASES, MISSING, OTHERS, Case
from tests.taps.toy import SHAPE, Script, ToyPipeline, follow, tap

K = 4
STEPS = 6
# After call 1 a solver of order two has ended a pair, after call 2 it is in the middle of one.
MOVES = {1: [2, 0, 0, 3], 2: [0, 1, 1, 2]}
STAY = list(range(K))

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def run(pipe: ToyPipeline, on_call, same_start=False):
    """The pipeline's own loop under the scheduler tap alone; returns the final state."""
    generators = slot_generators(1, 1, K)

    def on_step(call: Call) -> None:
        on_call(call, generators)

    with tapped_scheduler(pipe, generators, on_step):
        latents = one_start() if same_start else None
        return pipe(K, STEPS, generators, latents).images


def one_start():
    """The same noise in every row."""
    latents = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    return latents.repeat(K, 1, 1, 1)


_PLAIN: dict[str, list[Call]] = {}


def plain(case: Case) -> list[Call]:
    """The calls of a plain run; all tests of a case look at the same one."""
    if str(case) not in _PLAIN:
        found: list[Call] = []
        run(case.pipe(), lambda call, generators: found.append(call))
        _PLAIN[str(case)] = found
    return _PLAIN[str(case)]


def moved_states(case, with_history):
    """State after every call of a run permuted by `MOVES`, each row keeping its noise."""
    found = []

    def on_call(call, generators):
        rows = MOVES.get(call.position, STAY)
        follow(generators, rows)
        fields = call.output if with_history else ("prev_sample",)
        for name in fields:
            if torch.is_tensor(call.output[name]):
                call.output[name] = call.output[name][rows]
        if with_history:
            permute_history(call.scheduler, call.sample, lambda value: value[rows])
        found.append(call.output["prev_sample"])

    run(case.pipe(), on_call)
    return found


def test_no_scheduler_is_forgotten():
    if not version("diffusers").startswith("0.42."):
        pytest.skip("the list is that of diffusers 0.42")
    there = {name for name in dir(diffusers) if name.endswith("Scheduler")}
    known = {case.name for case in CASES} | set(MISSING) | set(OTHERS)
    assert there - known == set()
    assert len({str(case) for case in CASES}) == len(CASES) >= 35


@pytest.mark.parametrize(("name", "package"), MISSING.items())
def test_schedulers_that_need_another_package(name, package):
    if not importlib.util.find_spec(package):
        pytest.skip(f"{name} needs {package}")
    pipe = ToyPipeline(getattr(diffusers, name)())
    assert run(pipe, lambda call, generators: None).isfinite().all()


@every_case
def test_history_follows_the_lineage(case):
    moved, lineage = moved_states(case, with_history=True), torch.arange(K)
    for call, state in zip(plain(case), moved, strict=True):
        expected = call.output["prev_sample"]
        assert expected.isfinite().all()
        lineage = lineage[MOVES.get(call.position, STAY)]
        assert torch.equal(state, expected[lineage]), f"call {call.position}"
    without = moved_states(case, with_history=False)
    assert torch.equal(without[-1], moved[-1]) != case.remembers


@every_case
def test_noise_levels_fall_and_a_call_begins_where_the_last_one_ended(case):
    calls = plain(case)
    pairs = [call.pair for call in calls]
    if not case.levels:
        assert pairs == [None] * len(pairs)
        return
    assert all(0 <= alpha <= 1 and sigma > 0 for alpha, sigma in pairs)
    snr = [alpha / sigma for alpha, sigma in pairs]
    assert snr == sorted(snr) and snr[0] < snr[-1]
    for call, after in zip(calls, calls[1:], strict=False):
        assert call.next_pair == pytest.approx(after.pair, rel=1e-6)
    alpha, sigma = calls[-1].next_pair or (1.0, 0.0)
    assert sigma <= pairs[-1][1] * (1 + 1e-6)


@every_case
def test_the_estimate_is_the_schedulers_own(case):
    for call in plain(case):
        own = call.output.get("pred_original_sample", call.output.get("denoised"))
        output = call.arguments["model_output"]
        given = call.scheduler, call.index, call.pair, call.sample, output
        refused = not (case.levels and case.estimates)
        # From pure noise, a prediction of the noise says nothing about the data.
        refused |= case.name == "IPNDMScheduler" and call.position == 0
        if refused:
            with pytest.raises(TapError, match="set another scheduler"):
                estimate_x0(*given)
            continue
        found, size = estimate_x0(*given), float(call.sample.abs().max())
        if case.name.startswith("KDPM2") and call.position % 2:
            # It evaluates between two noise levels there; its own estimate, which the tap
            # prefers, knows that level, and the formula doesn't.
            shift = "Ancestral" in case.name
            level = float(call.scheduler.sigmas_interpol[call.index - shift])
            prediction = case.config.get("prediction_type", "epsilon")
            torch.testing.assert_close(
                own, predict_x0(call.sample, output, 1.0, level, prediction)
            )
        elif "s_churn" in case.step:
            pass  # its own estimate is that of the state with noise added
        elif own is not None:
            torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5 * size)
        elif case.name.startswith(("FlowMatch", "LTX")):
            sigma = call.scheduler.sigmas[call.index]
            torch.testing.assert_close(found, call.sample - sigma * output)


@every_case
def test_one_transition_is_the_last_and_noise_is_never_global(case):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    script = Script(K, generators=slot_generators(1, 1, K))
    arguments = {"batch_size": K, "num_inference_steps": STEPS}
    out = tap(case.pipe(), script, arguments)()
    assert torch.equal(out.images, plain(case)[-1].output["prev_sample"])
    assert torch.equal(torch.get_rng_state(), state)
    last = script.steps[-1]
    assert [step.index for step in script.steps] == list(range(last.total))
    assert [step.final for step in script.steps] == [False] * last.index + [True]
    assert torch.equal(last.x0, out.images)
    order = getattr(plain(case)[0].scheduler, "order", 1)
    assert last.total == (len(plain(case)) if order == 1 else STEPS)
    for step, after in zip(script.steps, script.steps[1:], strict=False):
        assert torch.equal(step.x_next, after.x)
        if case.levels:
            end = step.path.alpha_next, step.path.sigma_next
            assert end == pytest.approx((after.path.alpha, after.path.sigma), rel=1e-6)


@every_case
def test_whether_copies_separate_is_foreseen(case):
    final = run(case.pipe(), lambda call, generators: None, same_start=True)
    separated = bool((final[0] != final[1]).any())
    told = {separates_copies(call.scheduler, call.arguments) for call in plain(case)}
    assert told == {separated} == {case.noisy}


@every_case
def test_a_replaced_step_separates_copies_and_stays_finite(case):
    script = Script(K)
    arguments = {"batch_size": K, "num_inference_steps": STEPS, "latents": one_start()}
    replaced = tap(case.pipe(), script, arguments, stochastic=True)
    refused = case.name.startswith(("KDPM2", "IPNDM")) or not (case.levels and case.estimates)
    if refused:
        with pytest.raises(TapError, match="set "):
            replaced()
        return
    final = replaced().images
    assert final.isfinite().all()
    assert (final[0] != final[1]).any()
    assert "replaced" in replaced.replaced
    for step in script.steps:
        assert isinstance(step.kernel, Kernel)
        assert 0 <= step.kernel.std <= step.path.sigma_next

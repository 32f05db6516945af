"""What a callback makes of the latents after the last step is what is weighed and returned."""

import pytest
import torch
from diffusers import HeunDiscreteScheduler
from diffusers.callbacks import PipelineCallback

from fkdiff import Resample, Tilt, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from tests.taps.setups import CALL, SEED, as_tensor, assert_near, brightness, shared
from tests.taps.test_inputs import built

K = 4
FAMILIES = ("sd", "sdxl", "sd3", "flux_cfg", "cogvideox", "wan", "sd_img2img", "sd_inpaint",
            "flux_inpaint", "ltx2", "zimage")  # fmt: skip


def last(given, pipe, index):
    return index == pipe.num_timesteps - 1


def returned(pipe, index, time, given):
    """Other latents in the place of the last ones."""
    return {"latents": edit(given["latents"])} if last(given, pipe, index) else {}


def in_place(pipe, index, time, given):
    if last(given, pipe, index):
        given["latents"].copy_(edit(given["latents"]))
    return {}


def edit(latents):
    """Turns the order of the rows' brightness round, each by a distance of its own."""
    return -1.5 * latents + latents.flatten(1).mean(1).reshape(-1, *[1] * (latents.ndim - 1))


def steered(tiny, callback, **more):
    settings = {"particles": K, "seed": SEED, "resample": Resample(ess=None, window=(0, 1))}
    run = steer(tiny.pipe, Tilt(brightness(tiny), scale=50), **{**settings, **more})
    return run(**{**CALL, **tiny.call}, callback_on_step_end=callback)


def scores(out):
    return out.steering.rewards["brightness"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("callback", [returned, in_place])
def test_rewards_and_samples_are_those_of_the_output(name, callback):
    tiny = shared(name)
    out, plain = steered(tiny, callback, select="all"), steered(tiny, None, select="all")
    seen = as_tensor(out).flatten(1).mean(1).double()
    order = out.steering.selected[0]
    assert_near(scores(out)[0][order], seen, 2e-3 if name == "sd3" else 1e-5)
    assert_near(out.steering.samples[0][order].flatten(1).mean(1).double(), seen, 1e-5)
    assert (scores(out) - scores(plain)).abs().max() > 1e-4  # the edit is seen
    assert torch.equal(seen.argsort(descending=True), torch.arange(K))
    one = steered(tiny, callback)
    assert torch.equal(one.steering.log_w, out.steering.log_w)
    assert_near(as_tensor(one), as_tensor(out)[:1], 1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_weights_it_is_the_stock_call_with_that_callback(name):
    tiny = shared(name)
    for callback in (returned, in_place):
        call = {**CALL, **tiny.rows(K), "callback_on_step_end": callback}
        plain = tiny.pipe(**call, generator=slot_generators(SEED, 1, K))
        out = steer(tiny.pipe, particles=K, seed=SEED, select="all")(
            **{**CALL, **tiny.call}, callback_on_step_end=callback
        )
        assert torch.equal(as_tensor(out), as_tensor(plain))


class Cut(PipelineCallback):
    """One of diffusers' own kind, which names the tensors that it reads."""

    @property
    def tensor_inputs(self):
        return ["latents", "prompt_embeds"]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        assert set(callback_kwargs) == {"latents", "prompt_embeds"}
        return returned(pipeline, step_index, timestep, callback_kwargs)


def test_callbacks_of_every_kind():
    tiny = shared("sd")
    known = steered(tiny, returned, select="all")
    assert torch.equal(as_tensor(steered(tiny, Cut(1.0), select="all")), as_tensor(known))

    def blind(pipe, index, time, given):
        assert set(given) == {"prompt_embeds"}
        return {}

    run = steer(tiny.pipe, Tilt(brightness(tiny), scale=50), particles=K, seed=SEED)
    call = {**CALL, **tiny.call, "callback_on_step_end": blind}
    plain = run(**CALL, **tiny.call)
    out = run(**call, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert torch.equal(out.images, plain.images)


def test_a_consistency_model_decodes_its_estimate():
    tiny = shared("lcm")

    def callback(pipe, index, time, given):
        last = index == pipe.num_timesteps - 1
        return {"denoised": edit(given["denoised"]), "latents": given["latents"]} if last else {}

    names = {"callback_on_step_end_tensor_inputs": ["denoised", "latents"]}
    run = steer(tiny.pipe, Tilt(brightness(tiny), 50), particles=K, seed=SEED, select="all")
    call = {**CALL, **tiny.call}
    out = run(**call, callback_on_step_end=callback, **names)
    seen = as_tensor(out).flatten(1).mean(1).double()
    assert_near(scores(out)[0][out.steering.selected[0]], seen, 1e-5)
    assert (seen - scores(run(**call))).abs().max() > 1e-4


@pytest.mark.filterwarnings("ignore")  # diffusers calls `callback` deprecated
@pytest.mark.parametrize(
    ("name", "both"), [("sd", False), ("sd", True), ("pixart", False), ("audioldm2", False)]
)
def test_the_older_callback(name, both):
    tiny = shared(name)

    def older(index, time, latents):
        if index == 2:
            latents.copy_(edit(latents))

    def newer(pipe, index, time, given):
        return {"latents": 0.5 * given["latents"]} if index == 2 else {}

    call = {**CALL, **tiny.call, "callback": older} | (
        {"callback_on_step_end": newer} if both else {}
    )
    for settings in ({"select": "all"}, {}):
        run = steer(tiny.pipe, Tilt(brightness(tiny), 50), particles=K, seed=SEED, **settings)
        for steps in (1, 2, 5):  # also where it doesn't come at the end
            out = run(**call, callback_steps=steps)
            seen = as_tensor(out).flatten(1).mean(1).double()
            assert_near(scores(out)[0][out.steering.selected[0]], seen, 1e-5)


def test_a_solver_of_order_two(with_scheduler):
    tiny = with_scheduler(HeunDiscreteScheduler)
    out = steered(tiny, returned, select="all")
    seen = as_tensor(out).flatten(1).mean(1).double()
    assert_near(scores(out)[0][out.steering.selected[0]], seen, 1e-5)


def test_edits_that_can_not_be_weighed_are_refused():
    tiny = built("ltx")
    with pytest.raises(TapError, match=r"latents must not be edited .* LTXImageToVideoPipeline"):
        steered(tiny, returned)
    untouched = steered(tiny, lambda pipe, index, time, given: given)
    assert torch.equal(as_tensor(untouched), as_tensor(steered(tiny, None)))

"""Two prompts under a mask: the mixture is exact, and equals the published mixing of latents."""

import pytest
import torch

from fkdiff import Correct, RLGuidance, steer
from fkdiff.processes.streams import slot_generators
from fkdiff.taps import TapError
from fkdiff.terms.regions import Mask, Regions
from tests.taps.pools import network_of, nudged
from tests.tiny import build

BACKGROUND = "a white background"
BOX = Mask((0.25, 0.25, 1, 0.75))
STEPS = 3


@pytest.fixture(scope="module")
def tinies():
    return {name: build(name) for name in ("sd", "sd3", "flux", "pixart")}


def latents(out):
    return out.steering.latents[0]


def published(tiny, mask, start):
    """Both prompts in one batch of one latent, mixed by a callback after every step."""
    pipe = tiny.pipe

    def mix(pipe, index, t, tensors):
        behind, subject = tensors["latents"]
        m = mask.weights(*behind.shape[-2:])
        mixed = m * subject + (1 - m) * behind
        return {"latents": torch.stack([mixed, mixed])}

    call = {**tiny.call, "prompt": [BACKGROUND, tiny.call["prompt"]]}
    return pipe(
        **call,
        num_inference_steps=STEPS,
        latents=torch.cat([start, start]),
        callback_on_step_end=mix,
        output_type="latent",
    ).images[0]


@pytest.mark.parametrize("name", ("sd", "sd3"))
@pytest.mark.parametrize("mask", [BOX, Mask((0, 0, 1, 1), 0.4)], ids=["hard", "feathered"])
def test_it_is_the_published_mixing_of_latents(tinies, name, mask):
    tiny = tinies[name]
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    call = {**tiny.call, "num_inference_steps": STEPS, "output_type": "latent", "latents": start}
    out = latents(steer(tiny.pipe, Regions(BACKGROUND, mask), particles=1, seed=0)(**call))
    expected = published(tiny, mask, start)
    assert torch.allclose(out[0], expected, atol=2e-4 * float(expected.abs().max()))
    other = latents(steer(tiny.pipe, Regions(BACKGROUND), particles=1, seed=0)(**call))
    assert not torch.allclose(other[0], expected, atol=1e-2)


@pytest.mark.parametrize("name", ("sd", "flux", "pixart"))
def test_whole_masks_are_single_prompts(tinies, name):
    """All of the picture inside is the stock call, bit for bit; the border is the background's."""
    tiny = tinies[name]
    call = {**tiny.call, "num_inference_steps": STEPS, "output_type": "latent"}
    everywhere = Regions(BACKGROUND, Mask((0, 0, 1, 1)))
    out = steer(tiny.pipe, everywhere, particles=1, seed=0)(**call)
    plain = steer(tiny.pipe, particles=1, seed=0)(**call)
    assert torch.allclose(latents(out), latents(plain), atol=1e-5)
    boxed = steer(tiny.pipe, Regions(BACKGROUND, BOX), particles=1, seed=0)(**call)
    assert not torch.allclose(latents(boxed), latents(plain), atol=1e-3)


def test_the_unconditional_branch_is_shared(tinies):
    tiny = tinies["sd"]
    call = {**tiny.call, "num_inference_steps": STEPS, "output_type": "latent"}
    one = steer(tiny.pipe, Regions(BACKGROUND), particles=4, select="all", seed=0)
    out = one(**call)
    assert out.steering.cost.denoiser_evaluations == 4 * 3 * STEPS  # 2 for plain, 4 as published
    batched = steer(
        tiny.pipe, Regions(BACKGROUND), particles=4, select="all", seed=0, micro_batch=1
    )
    assert torch.allclose(latents(batched(**call)), latents(out), atol=1e-4)
    same = steer(tiny.pipe, Regions("a cat"), particles=1, seed=0)(**{**call, "prompt": "a cat"})
    assert same.steering.cost.denoiser_evaluations == 2 * STEPS  # nothing differs


def test_with_rl_guidance_the_border_stays_the_background(tinies):
    tiny = tinies["sd"]
    tuned = nudged(network_of(tiny.pipe))
    call = {**tiny.call, "num_inference_steps": 1, "output_type": "latent"}
    mask = Regions(BACKGROUND, BOX)
    out = steer(tiny.pipe, mask, RLGuidance(tuned, 1.5), particles=1, seed=0)(**call)
    alone = steer(tiny.pipe, mask, particles=1, seed=0)(**call)
    outside = BOX.weights(8, 8) == 0
    both = latents(out)[0][:, outside], latents(alone)[0][:, outside]
    assert torch.allclose(*both, atol=1e-4 * float(both[1].abs().max()))
    assert not torch.allclose(latents(out), latents(alone), atol=1e-2)


def test_several_seeds_make_pictures_independent_of_company(tinies):
    tiny = tinies["sd"]
    call = {**tiny.call, "num_inference_steps": 2, "output_type": "latent"}
    many = steer(tiny.pipe, particles=3, select="all", seed=[5, 6, 7])(**call)
    alone = steer(tiny.pipe, particles=1, seed=6)(**call)
    assert torch.allclose(latents(many)[1], latents(alone)[0], atol=1e-5)
    stock = tiny.pipe(**call, generator=slot_generators(7, 1, 1)).images
    assert torch.allclose(latents(many)[2], stock[0], atol=1e-5)
    with pytest.raises(ValueError, match=r"seed must be one number, .* prompt \(3\), got 2"):
        steer(tiny.pipe, particles=3, seed=[1, 2])(**call)


def test_masks():
    hard = Mask().weights(16, 16)  # an eighth on each side, as published
    assert hard[2:14, 2:14].all() and hard.sum() == 144
    soft = Mask((0, 0, 1, 1), 0.5).weights(8, 16)
    assert soft.shape == (8, 16) and soft[0].max() == 0.125 and soft[3].max() == 0.875
    wide = Mask((0.5, 0, 1, 0.5)).weights(6, 8)
    assert wide[:3, 4:].all() and wide.sum() == 12


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mask((0, 0, 1.2, 1)), "inside the image"),
        (lambda: Mask((0.6, 0, 0.5, 1)), "inside the image"),
        (lambda: Mask(feather=-1), "feather must be"),
        (lambda: Mask((0, 0, 0.01, 0.01)).weights(8, 8), "must hold a cell"),
        (lambda: Regions(" "), "background must be a prompt"),
    ],
)
def test_bad_masks_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_what_has_no_law_is_not_corrected(tinies):
    with pytest.raises(ValueError, match=r"Correct\(\) can't follow two prompts"):
        steer(tinies["sd"].pipe, Regions(BACKGROUND), Correct())
    with pytest.raises(ValueError, match="one Regions"):
        steer(tinies["sd"].pipe, Regions(BACKGROUND), Regions("a dog"))
    assert "heuristic" in steer(tinies["sd"].pipe, Regions(BACKGROUND)).target
    with pytest.raises(TapError):
        ddpm = build("ddpm")
        steer(ddpm.pipe, Regions(BACKGROUND), particles=1)(**ddpm.call, num_inference_steps=2)

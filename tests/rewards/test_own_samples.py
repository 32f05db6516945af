"""A reward may edit what it is given: nobody else sees it. Each is compared with a pure one."""

import pytest
import torch
from torchvision.transforms import Normalize

from fkdiff import Grid, MaskedPath, Tilt, as_reward, sample, sample_tokens, steer
from fkdiff.policy import ChunkSampler, SteeredPolicy
from fkdiff.rewards import (
    Brightness,
    Colourfulness,
    Coverage,
    EdgeSharpness,
    JPEGSize,
    Loudness,
    OverBackgrounds,
    PerFrame,
    SpectralFlatness,
    Uncropped,
)
from fkdiff.sequences.guidance import straight_through
from fkdiff.sequences.sampling import sample_sequences
from fkdiff.terms.reward import Composable, evaluate, minimum
from fkdiff.terms.reward_algebra import is_pure
from fkdiff.terms.reward_time import within_seconds
from tests.policy import toy
from tests.sequences.toy import PATH, net
from tests.taps.setups import CALL, brightness, shared


def in_torch(x):
    x.mul_(0).add_(7 if x.is_floating_point() else 1)


def in_numpy(x):
    values = x.numpy()
    values *= 0


def in_rows(x):
    for row in x:
        row.zero_()


def normalised(x):
    channels = x.shape[-3]
    Normalize([0.5] * channels, [0.2] * channels, inplace=True)(x)


def resized(x):
    x.resize_(0)


EDITS = [in_torch, in_numpy, in_rows, resized]


def value(x):
    """A weighted mean of each sample, float64."""
    flat = x.double().flatten(1)
    return flat @ torch.linspace(0.5, 1.5, flat.shape[1], dtype=torch.float64) / flat.shape[1]


def editing(edit, inputs, name="edits"):
    """A value of each sample, which is then spoilt."""

    def score(x):
        values = value(x)
        edit(x)
        return values

    return as_reward(score, name=name, inputs=inputs)


def pure(inputs, name="edits"):
    return as_reward(value, name=name, inputs=inputs)


class PlugIn(Composable):
    """A reward that composes, edits, and returns a buffer that it uses again."""

    name, inputs, differentiable, mean, sd = "plug-in", "pixels", False, 0.0, 1.0

    def __init__(self, edit):
        self.edit, self.buffer = edit, torch.zeros(64, dtype=torch.float64)

    def __call__(self, samples, **context):
        values = value(samples)
        self.edit(samples)
        return self.buffer[: len(values)].copy_(values)


def steered(pipe_name):
    tiny = shared(pipe_name)

    def run(reward):
        out = steer(tiny.pipe, Tilt(reward, 3.0), monitor=[brightness(tiny)], particles=3, seed=1)
        return out(**{**CALL, **tiny.call}).steering

    return run


def of_latents(reward):
    path = Grid.vp(8, prediction="score")
    terms = Tilt(reward, 2.0), Tilt(pure("latents", "second"), 1.0)
    return sample(lambda x, a, s: -x, path, *terms, shape=(3, 2), monitor=[pure("latents", "m")],
                  particles=4, seed=0)  # fmt: skip


def of_tokens(reward):
    def logits(tokens, alpha):
        return tokens[..., None].float() * torch.linspace(-1, 1, 3)

    terms = Tilt(reward, 2.0, draws=3), Tilt(pure("tokens", "second"), 1.0)
    return sample_tokens(logits, MaskedPath(5, mask=3), *terms, template=torch.full((2, 5), -1),
                         monitor=[pure("tokens", "m")], particles=4, seed=0)  # fmt: skip


def of_sequences(reward):
    return sample_sequences(net, PATH, Tilt(reward, 2.0), lengths=[2, 2], steps=6,
                            monitor=[pure("simplex", "m")], particles=4, seed=0)  # fmt: skip


def of_chunks(reward):
    levels = toy.ddpm()
    sampler = ChunkSampler(toy.Gaussian(levels, 0.3), levels, (2, 1), cold_evaluations=6)
    policy = SteeredPolicy(sampler, Tilt(reward, 2.0), particles=4)
    return policy.decide(torch.full((2, 1), 0.5)).steering[0]


RUNS = [
    (steered("sd"), "pixels"),
    (steered("sd"), "latents"),
    (steered("cogvideox"), "video"),
    (steered("stable_audio"), "audio"),
    (of_latents, "latents"),
    (of_tokens, "tokens"),
    (of_sequences, "simplex"),
    (of_sequences, "tokens"),
    (of_chunks, "actions"),
]


def agree(one, two):
    assert torch.equal(one.latents, two.latents) and torch.equal(one.log_z, two.log_z)
    assert one.rewards.keys() == two.rewards.keys()
    for name, values in one.rewards.items():
        assert torch.equal(values, two.rewards[name]), name
    if two.samples is not None:
        assert torch.equal(one.samples, two.samples)


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_a_run_is_the_same_with_a_reward_that_edits(number):
    run, inputs = RUNS[number]
    expected = run(pure(inputs))
    assert any(float(values.std()) > 0 for values in expected.rewards.values())
    for edit in EDITS if inputs != "pixels" else [*EDITS, normalised]:
        agree(run(editing(edit, inputs)), expected)
    alone = run(pure(inputs) + 0.0 * editing(in_torch, inputs, "other"))
    assert torch.equal(alone.latents, expected.latents)


@pytest.mark.parametrize("edit", [*EDITS, normalised])
@pytest.mark.parametrize("shape", [(4, 3, 6, 6), (4, 4, 6, 6), (4, 3, 2, 6, 6)])
def test_formulas_and_wrappers_give_each_part_its_own(edit, shape):
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    first, second = editing(edit, "pixels"), pure("pixels", "second")
    for made in (first + second, minimum(second, first), within_seconds(first - second, 9.0)):
        same = {"+": 2.0, "minimum": 1.0, "-": 0.0}[made.op]
        values = same * value(pixels)
        for found in (evaluate(made, pixels), made(pixels), made.components(pixels)[made.name]):
            torch.testing.assert_close(found, values)
        assert torch.equal(pixels, before)
    twice = evaluate(PlugIn(edit) + second, pixels)
    torch.testing.assert_close(twice, 2 * value(pixels))
    assert torch.equal(pixels, before)


def test_wrappers_of_rewards_of_pictures_hand_out_copies():
    video, cut = torch.rand(2, 5, 3, 4, 4), torch.rand(2, 4, 4, 4)
    kept = video.clone(), cut.clone()
    for made, given in ((PerFrame(editing(in_torch, "pixels")), video),
                        (OverBackgrounds(editing(in_torch, "pixels")), cut)):  # fmt: skip
        assert torch.equal(evaluate(made, given), evaluate(made, given))
    assert torch.equal(video, kept[0]) and torch.equal(cut, kept[1])


def test_context_and_texts_are_a_reward_s_own():
    """Lists of texts, prompts and observations are emptied by the first, whole for the second."""
    observations = [torch.ones(2), torch.ones(2)]

    def rude(texts, prompts, observations):
        values = [float(len(a) + len(b)) for a, b in zip(texts, prompts, strict=True)]
        observations[0].zero_()
        texts.clear(), prompts.clear()
        return values

    def count(texts, prompts, observations):
        return [float(len(texts) * len(prompts) * o.sum()) for o in observations]

    both = as_reward(rude, inputs="text") + as_reward(count, inputs="text")
    texts, context = ["a", "bc"], {"prompts": ["x", "y"], "observations": observations}
    assert evaluate(both, texts, context).tolist() == [2 + 8, 3 + 8]
    assert texts == ["a", "bc"] and context["prompts"] == ["x", "y"]
    assert observations[0].tolist() == [1, 1]


def test_a_buffer_that_a_reward_returns_again_doesn_t_change_earlier_values():
    reward = PlugIn(lambda x: None)
    first = evaluate(reward, torch.zeros(2, 3, 1, 1))
    evaluate(reward, torch.ones(2, 3, 1, 1))
    assert first.tolist() == [0, 0]
    part = as_reward(lambda x: x[:, 0, 0, 0])
    pixels = torch.zeros(2, 3, 1, 1, dtype=torch.float64)
    values = evaluate(part, pixels)
    pixels += 1
    assert values.tolist() == [0, 0]


def test_a_guide_that_edits_has_the_same_gradient():
    prize = torch.tensor([1.0, 0.0, -2.0])
    logits, mask = torch.zeros(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    uniform = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0))

    def spoilt(h):
        values = (h * prize).sum((1, 2))
        h.data.zero_()
        return values

    def squared(h):
        return (h * h * prize).sum((1, 2))

    guides = [as_reward(f, name=f.__name__, inputs="simplex", differentiable=True)
              for f in (spoilt, squared)]  # fmt: skip
    found = straight_through(guides[0] + guides[1], logits, mask, uniform)
    clean = straight_through(lambda h: (h * prize).sum((1, 2)) + squared(h), logits, mask, uniform)
    torch.testing.assert_close(found, clean)


OURS = [Brightness(), Colourfulness(), JPEGSize(), Coverage(), EdgeSharpness(), Uncropped(),
        Loudness(), SpectralFlatness(), PerFrame(Brightness()), OverBackgrounds(Brightness()),
        2 * Brightness()]  # fmt: skip
SHAPES = {"pixels": (2, 3, 8, 8), "rgba": (2, 4, 8, 8), "video": (2, 3, 3, 8, 8),
          "audio": (2, 2, 64)}  # fmt: skip


@pytest.mark.parametrize("reward", OURS, ids=lambda reward: reward.name)
def test_ours_are_pure_and_get_no_copy(reward):
    samples = torch.rand(SHAPES[reward.inputs])
    before, seen = samples.clone(), []
    assert is_pure(reward)
    reward(samples)
    assert torch.equal(samples, before)

    class Watched(type(Brightness())):
        pure = True

        def __call__(self, samples, **context):
            seen.append(samples.data_ptr())
            return super().__call__(samples)

    pixels = torch.rand(SHAPES["pixels"])
    evaluate(Watched() + 1, pixels)
    assert seen == [pixels.data_ptr()]


def test_a_subclass_that_overrides_the_call_must_say_it_anew():
    class Rude(Brightness):
        def __call__(self, samples, **context):
            return super().__call__(samples.zero_())

    class Quiet(Brightness):
        pass

    assert is_pure(Quiet()) and not is_pure(Rude())
    pixels = torch.ones(1, 3, 2, 2)
    evaluate(Rude(), pixels)
    assert pixels.min() == 1

"""The pipeline and its scheduler: saved, loaded, imported by file, seeded, steered."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

import fkdiff.pipelines
from fkdiff import GumbelFlowPipeline, GumbelFlowScheduler, SimplexDenoiser, StraightThrough, Tilt
from fkdiff.processes.simplex import GumbelPath
from fkdiff.sequences.guides import ConvGuide
from fkdiff.terms import as_reward


@pytest.fixture(scope="module")
def pipe():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SimplexDenoiser("ACGT", 8, width=16, layers=1, heads=2, classes=("x", "y")).eval()
        for part in (net.write, net.modulate, net.label):  # as if it had been trained
            torch.nn.init.normal_(part.weight)
    made = GumbelFlowPipeline(net, GumbelFlowScheduler(4))
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, n=4, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    return pipe(n, num_inference_steps=6, generator=generator, **more)


def test_saved_and_loaded_it_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin")) and list(tmp_path.rglob("*.safetensors"))
    file = Path(fkdiff.pipelines.__file__).parent / "gumbel_flow.py"
    by_file = DiffusionPipeline.from_pretrained(
        tmp_path, custom_pipeline=str(file), trust_remote_code=True
    )
    for loaded in (GumbelFlowPipeline.from_pretrained(tmp_path), by_file):
        loaded.set_progress_bar_config(disable=True)
        loaded.denoiser.eval()
        assert draw(loaded, length=[3, 8, 5, 1]).sequences == (
            draw(pipe, length=[3, 8, 5, 1]).sequences
        )


def test_lengths_output_types_and_classes(pipe):
    texts = draw(pipe, length=[3, 8, 5, 1]).sequences
    assert [len(t) for t in texts] == [3, 8, 5, 1]
    tokens = draw(pipe, length=[3, 8, 5, 1], output_type="tokens").sequences
    assert [pipe.alphabet.decode(row) for row in tokens] == texts
    simplex = draw(pipe, length=[3, 8, 5, 1], output_type="simplex").sequences
    assert simplex.sum((1, 2)).tolist() == [3, 8, 5, 1]
    classes = [draw(pipe, 20, class_label=label).sequences for label in ("x", "y", None)]
    assert classes[0] != classes[1] != classes[2]


def test_one_generator_a_sequence_makes_rows_independent(pipe):
    def one(seed):
        return [torch.Generator().manual_seed(seed)]

    pair = pipe(2, length=6, generator=one(1) + one(2), eta=1.0, num_inference_steps=5).sequences
    alone = pipe(1, length=6, generator=one(2), eta=1.0, num_inference_steps=5).sequences
    assert pair[1] == alone[0]


def test_callback_sees_and_may_change_each_step(pipe):
    seen = []

    def callback(pipe, index, t, kept):
        seen.append(index)
        return {"latents": kept["latents"] * 0 + torch.tensor([9.0, 0, 0, 0])}

    assert set("".join(draw(pipe, callback_on_step_end=callback).sequences)) == {"A"}
    assert seen == list(range(6))


def test_with_terms_it_steers(pipe):
    reward = as_reward(
        lambda h: h[..., 1].sum(1), name="cs", inputs="simplex", differentiable=True
    )
    terms = [StraightThrough(reward, 1.0), Tilt(reward, 2.0)]
    out = draw(pipe, 6, length=8, terms=terms, particles=6)
    plain = draw(pipe, 6, length=8, terms=[], particles=1)
    assert "".join(out.sequences).count("C") > "".join(plain.sequences).count("C") + 6
    assert out.steering.rewards["cs"].shape == (6, 6)
    texts = as_reward(lambda texts: [t.count("C") for t in texts], inputs="text", name="count")
    again = draw(pipe, 6, length=8, terms=[Tilt(texts, 1.0)], monitor=[reward])
    assert torch.equal(again.steering.rewards["count"], again.steering.rewards["cs"])


def test_scheduler_goes_on_like_the_path():
    scheduler, path = GumbelFlowScheduler(5), GumbelPath(5)
    scheduler.set_timesteps(10)
    tokens = torch.eye(5)[torch.tensor([[0, 3]])]
    noise = torch.randn(1, 2, 5)
    t = torch.tensor([0.3])
    assert torch.allclose(
        scheduler.add_noise(tokens, noise, t), path.interpolate(tokens, noise, 0.3)
    )
    # Along a noiseless path with the token known, one step is exact.
    z = path.interpolate(tokens, noise, 0.3)
    out = scheduler.step(100 * tokens, 0.3, z)
    assert torch.allclose(out.prev_sample, path.interpolate(tokens, noise, 0.4), atol=1e-4)
    guided = scheduler.step(
        100 * tokens, 0.3, z, guidance=tokens - 0.2, eta=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert guided.log_ratio.shape == (1,)


@pytest.mark.parametrize(
    "call, words",
    [
        ({"num_sequences": 0}, "num_sequences must be at least 1"),
        ({"length": 0}, "length must be in"),
        ({"length": 9}, "length must be in"),
        ({"length": [3, 3]}, "length must be one number or 1"),
        ({"class_label": "z"}, "class must be one of x, y"),
        ({"output_type": "np"}, "output_type must be"),
        ({"num_inference_steps": 0}, "steps must be at least 1"),
        ({"terms": [StraightThrough(as_reward(ConvGuide("ACGU").eval(), name="rna",
          inputs="simplex", differentiable=True))]}, "guide 'rna' must read"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused(pipe, call, words):
    with pytest.raises(ValueError, match=words):
        pipe(**call)


def test_mismatched_parts_are_refused(pipe):
    with pytest.raises(ValueError, match="as many categories"):
        GumbelFlowPipeline(pipe.denoiser, GumbelFlowScheduler(5))
    with pytest.raises(ValueError, match="set_timesteps first"):
        GumbelFlowScheduler(4).step(torch.zeros(1, 1, 4), 0.5, torch.zeros(1, 1, 4))


def test_with_terms_a_list_of_generators_gives_each_sequence_its_own(pipe):
    call = dict(length=6, num_inference_steps=4, terms=[Tilt(as_reward(cs, inputs="text"), 2.0)])
    numbers = [torch.Generator().manual_seed(n) for n in (1, 2)]
    both = pipe(2, **call, generator=numbers).steering
    for place, number in enumerate((1, 2)):
        generator = torch.Generator().manual_seed(number)
        first, second = (pipe(1, **call, generator=generator).steering for _ in range(2))
        assert torch.equal(both.latents[place], first.latents[0])
        assert not torch.equal(first.latents, second.latents)


def cs(texts):
    return torch.tensor([float(text.count("C")) for text in texts])

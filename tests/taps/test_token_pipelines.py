"""Diffusers' own token pipelines: pass-through, lineage across blocks, law, refusals."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    BlockRefinementScheduler,
    DiffusionGemmaPipeline,
    DiscreteDDIMScheduler,
    LLaDA2Pipeline,
)
from torch import nn
from transformers import LlamaConfig

from fkdiff import Resample, Tilt, as_reward, steer
from fkdiff.taps import TapError
from tests.exact import z_of_means

V, MASK, PROMPT = 5, 4, torch.tensor([[1, 2]])
CALL = dict(
    input_ids=PROMPT, gen_length=6, block_length=4, num_inference_steps=2, temperature=1.0,
    eos_early_stop=False, editing_threshold=None, mask_token_id=MASK, output_type="seq",
    threshold=1.1,
)  # fmt: skip
ALWAYS = Resample(ess=1.0, window=(0.0, 1.0))


class Denoiser(nn.Module):
    """Logits that depend on the neighbours; the mask is never drawn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(canvas_length=4)
        self.table = nn.Parameter(torch.randn(V + 1, V) * 1.5)
        self.rows = []

    device = torch.device("cpu")

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        self.rows.append(len(input_ids))
        before = nn.functional.pad(input_ids[:, :-1], (1, 0), value=V)
        logits = self.table[before]
        return SimpleNamespace(logits=logits + torch.tensor([0.0, 0, 0, 0, -torch.inf]))


def llada(**more):
    pipe = LLaDA2Pipeline(Denoiser(), BlockRefinementScheduler(**more))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def twos(scale=1.0, **more):
    reward = as_reward(lambda x: (x == 2).sum(1).float(), name="twos", inputs="tokens")
    return Tilt(reward, scale, **more)


def test_without_weights_rows_are_those_of_single_stock_calls():
    out = steer(llada(), twos(0.0), particles=3, select="all", stochastic=False, seed=5)(**CALL)
    from fkdiff.processes.streams import slot_generators

    for row, generator in zip(out.steering.latents[0], slot_generators(5, 1, 3), strict=True):
        stock = llada()(**CALL, generator=generator).sequences[0]
        assert torch.equal(row, stock)


def test_editing_and_early_stop_pass_through():
    call = {**CALL, "editing_threshold": 0.3, "eos_early_stop": True, "eos_token_id": 3}
    from fkdiff.processes.streams import slot_generators

    out = steer(llada(), twos(0.0), particles=1, seed=2)(**call)
    stock = llada()(**call, generator=slot_generators(2, 1, 1)[0])
    assert torch.equal(out.sequences, stock.sequences)


def test_particles_carry_their_earlier_blocks_with_them():
    """Each generated prefix must be one that some particle had when its block was done."""
    seen = []

    def watch(pipe, step, timestep, given):
        seen.append(given["block_x"].clone())
        return {}

    steered = steer(llada(), twos(2.0), particles=6, resample=ALWAYS, select="all", seed=1)
    out = steered(**CALL, callback_on_step_end=watch)
    result = out.steering
    assert any(rows is not None for rows in result.rows)
    first = seen[1][:, 2:4]  # the first block is done before the last resampling steps
    rows = torch.arange(6)
    for index, moved in enumerate(result.rows):
        if index >= 1 and moved is not None:
            rows = rows[moved]
    assert torch.equal(result.latents[0][:, :2], first[rows])
    order = result.selected[0]
    assert torch.equal(out.sequences, result.latents[0][order])


def test_log_z_is_unbiased_across_a_block_boundary():
    """Against plain stock samples: E[exp(log Z)] is the mean of exp(reward)."""
    call = {**CALL, "gen_length": 4, "input_ids": PROMPT.expand(150, -1)}
    many = {**call, "input_ids": PROMPT.expand(3000, -1)}
    plain = llada()(**many, generator=torch.Generator().manual_seed(0))
    weights = (plain.sequences == 2).sum(1).double().exp()
    steered = steer(llada(), twos(draws=2), particles=4, resample=ALWAYS, seed=1)(**call)
    z = steered.steering.log_z.exp()
    assert abs(z_of_means(z, weights)) < 4.5
    assert abs(z_of_means(z, weights.sqrt())) > 4.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"sampling_method": "greedy"}, "temperature must be positive"),
        ({"eos_early_stop": True}, "eos_early_stop must be False"),
    ],
)
def test_what_cannot_be_steered_is_refused(change, told):
    with pytest.raises(TapError, match=told):
        steer(llada(), twos(), particles=3)(**{**CALL, **change})


def test_text_needs_a_tokenizer_and_a_prompt():
    reward = as_reward(lambda texts: torch.zeros(len(texts)), inputs="text")
    with pytest.raises(TapError, match="reads text"):
        steer(llada(), Tilt(reward), particles=2)(**CALL)
    with pytest.raises(TapError, match="needs a prompt"):
        steer(llada(), twos(), particles=2)(prompt="", gen_length=4)


def test_micro_batch_and_restoration():
    pipe = llada()
    scheduler, kind = pipe.scheduler, type(pipe.model)
    a = steer(pipe, twos(), particles=5, resample=ALWAYS, seed=3)(**CALL)
    b = steer(pipe, twos(), particles=5, resample=ALWAYS, seed=3, micro_batch=2)(**CALL)
    assert torch.equal(a.steering.latents, b.steering.latents)
    assert max(pipe.model.rows[-3:]) == 2
    assert pipe.scheduler is scheduler and type(pipe.model) is kind


class Gemma(nn.Module):
    """What the pipeline asks of DiffusionGemma, on the tokens of the canvas alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.config = LlamaConfig(
            vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        self.config.canvas_length = 3
        self.table = nn.Parameter(torch.randn(4, 3))
        self.model = SimpleNamespace(
            encoder=lambda **_: None,
            decoder=SimpleNamespace(create_diffusion_decoder_attention_mask=lambda **_: None),
        )

    device = torch.device("cpu")

    def forward(self, decoder_input_ids, self_conditioning_logits=None, **_):
        before = nn.functional.pad(decoder_input_ids[:, :-1], (1, 0), value=3)
        logits = self.table[before]
        if self_conditioning_logits is not None:
            logits = logits + 0.5 * self_conditioning_logits.tanh()
        return SimpleNamespace(logits=logits)


class Processor:
    """A chat template of two tokens."""

    def apply_chat_template(self, messages, **_):
        n = len(messages) if isinstance(messages[0], list) else 1
        return {"input_ids": torch.ones(n, 2, dtype=torch.int64)}

    def batch_decode(self, tokens, **_):
        return ["".join("abc"[int(t)] for t in row) for row in tokens]


def gemma(scheduler=None):
    pipe = DiffusionGemmaPipeline(Gemma(), scheduler or DiscreteDDIMScheduler(), Processor())
    pipe.set_progress_bar_config(disable=True)
    return pipe


CANVAS = dict(
    prompt="go", gen_length=3, num_inference_steps=4, temperature=1.0, confidence_threshold=None
)


@pytest.mark.parametrize(
    "scheduler",
    [
        DiscreteDDIMScheduler(),
        DiscreteDDIMScheduler(corrector_steps=1),
        BlockRefinementScheduler(threshold=0.9),
    ],
    ids=["ddim", "ddim_corrected", "blocks"],
)
def test_one_canvas_passes_through(scheduler):
    from fkdiff.processes.streams import slot_generators

    out = steer(gemma(scheduler), twos(0.0), particles=3, select="all", seed=4)(**CANVAS)
    for row, generator in zip(out.steering.latents[0], slot_generators(4, 1, 3), strict=True):
        stock = gemma(scheduler)(**CANVAS, generator=generator)
        assert torch.equal(row, stock.sequences[0])
    assert sorted(out.texts) == sorted(Processor().batch_decode(out.steering.latents[0]))


@pytest.mark.parametrize(
    "scheduler",
    [DiscreteDDIMScheduler(), BlockRefinementScheduler(threshold=0.9)],
    ids=["ddim", "blocks"],
)
def test_one_canvas_is_steered_to_its_law(scheduler):
    many = {**CANVAS, "prompt": ["go"] * 5000}
    plain = gemma(scheduler)(**many, generator=torch.Generator().manual_seed(0))
    counts = (plain.sequences == 2).sum(1).double()
    call = {**CANVAS, "prompt": ["go"] * 150}
    out = steer(gemma(scheduler), twos(1.5), particles=5, resample=ALWAYS, seed=1)(**call)
    assert any(rows is not None for rows in out.steering.rows)
    z, w = out.steering.log_z.exp(), (1.5 * counts).exp()
    assert abs(z_of_means(z, w)) < 4.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gen_length": 4}, "at most one canvas"),
        ({"confidence_threshold": 0.005}, "confidence_threshold must be None"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_canvas_refusals(change, told):
    with pytest.raises(TapError, match=told):
        steer(gemma(), twos(), particles=3)(**{**CANVAS, **change})

"""Masked language models of transformers as samplers: prompts, options, refusals, command line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fkdiff import (
    Anneal,
    DiscreteCorrect,
    MaskedDiffusionPipeline,
    Product,
    Resample,
    Tilt,
    as_reward,
)
from fkdiff.rewards import MotifPresence
from fkdiff.tokens.antibody import antibody_pipeline, installed
from fkdiff.tokens.pipeline import shaped
from tests.tokens.tiny_models import LETTERS, WORDS, causal, saved

ALWAYS = Resample(ess=1.0, window=(0.0, 1.0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("masked")
    return {
        "letters": saved(home / "letters"),
        "words": saved(home / "words", WORDS),
        "causal": causal(home / "causal"),
    }


@pytest.fixture(scope="module")
def pipe(folders):
    return quiet(MaskedDiffusionPipeline.from_masked_lm(folders["letters"]))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_text_of_letters_around_what_is_given(pipe):
    out = pipe(3, prompt="A[MASK]C [MASK][MASK]", num_inference_steps=3, generator=seeded())
    assert all(len(t) == 5 and t[0] == "A" and t[2] == "C" for t in out.sequences)
    again = pipe(3, prompt="A[MASK]C [MASK][MASK]", num_inference_steps=3, generator=seeded())
    assert out.sequences == again.sequences and out.steering is None


def test_prompts_of_several_lengths_are_padded_out_of_sight(pipe):
    """A row's law doesn't depend on its neighbours' length."""
    wide, narrow = (pipe.vocabulary.template(p, 1) for p in (["AC", "ACDEA"], ["AC"]))
    logits = pipe.denoiser()(torch.where(wide < 0, 4, wide), 0.0)
    alone = pipe.denoiser()(torch.where(narrow < 0, 4, narrow), 0.0)
    torch.testing.assert_close(logits[:1, :5], alone)
    assert logits[..., [LETTERS.index("[MASK]"), 0, 1, 2, 3]].isneginf().all()


def test_words_and_saving(folders, tmp_path):
    pipe = quiet(MaskedDiffusionPipeline.from_masked_lm(folders["words"]))
    out = pipe(2, length=3, prompt="a red", num_inference_steps=2, generator=seeded())
    assert all(text.startswith("a red ") and len(text.split()) == 5 for text in out.sequences)
    pipe.save_pretrained(tmp_path / "pipe")
    again = quiet(MaskedDiffusionPipeline.from_pretrained(tmp_path / "pipe"))
    same = again(2, length=3, prompt="a red", num_inference_steps=2, generator=seeded())
    assert same.sequences == out.sequences


def test_steering_raises_a_motif(pipe):
    reward = MotifPresence("ACE")
    call = dict(length=6, num_inference_steps=6, generator=seeded(1))
    plain = pipe(30, **call).sequences
    steered = pipe(30, **call, terms=[Tilt(reward, 6.0, draws=8)], particles=8, resample=ALWAYS)
    assert steered.steering.target.startswith("law of the chain times")
    assert reward(steered.sequences).mean() > reward(plain).mean() + 0.2


def test_correctors_on_masked_models_are_marked_heuristic(pipe):
    call = dict(length=3, num_inference_steps=3, terms=[Anneal(1.5), DiscreteCorrect()])
    assert pipe(**call).steering.target.startswith("heuristic: the conditionals")
    both = pipe(length=2, terms=[Product(pipe), DiscreteCorrect()], generator=seeded())
    alone = pipe(length=2, terms=[Anneal(2.0), DiscreteCorrect()], generator=seeded())
    torch.testing.assert_close(both.steering.log_w, alone.steering.log_w)
    with pytest.raises(ValueError, match="temperature must be 1"):
        pipe(**call, temperature=0.5)


def test_tokens_alone(pipe):
    bare = quiet(MaskedDiffusionPipeline(pipe.model, mask_token_id=4))
    out = bare(2, length=3, num_inference_steps=2, generator=seeded(), output_type="text")
    assert out.sequences.shape == (2, 3) and (out.sequences != 4).all()
    text = as_reward(lambda texts: torch.zeros(len(texts)), inputs="text")
    with pytest.raises(ValueError, match="the pipeline has no tokenizer"):
        bare(length=3, terms=[Tilt(text)])
    with pytest.raises(ValueError, match="mask_token_id must be given"):
        MaskedDiffusionPipeline(pipe.model)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({}, "prompt must hold"),
        ({"prompt": ""}, "prompt must hold"),
        ({"prompt": "AC"}, "or give length"),
        ({"prompt": "AZ", "length": 2}, "letters of the model"),
        ({"length": 3, "temperature": -1.0}, "temperature must not be negative"),
        ({"length": 3, "top_p": 2.0}, "top_p must be in"),
        ({"length": 3, "order": "left"}, "order must be random or confidence"),
        ({"length": 3, "num_inference_steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_calls(pipe, call, told):
    with pytest.raises(ValueError, match=told):
        pipe(**call)


def test_temperature_zero_cannot_be_resampled(pipe):
    tilt = Tilt(MotifPresence("A"), 1.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        pipe(length=3, terms=[tilt], temperature=0.0)
    pipe(length=3, terms=[tilt], temperature=0.0, resample=None, num_inference_steps=2)


def test_a_causal_model_is_refused(folders):
    from transformers import AutoTokenizer

    with pytest.raises(ValueError, match="must have a mask token"):
        MaskedDiffusionPipeline(None, AutoTokenizer.from_pretrained(folders["causal"]))


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert shaped(logits, top_p=0.6).isneginf().tolist() == [False, False, True]


def test_command_line(folders, tmp_path, monkeypatch, capsys):
    from fkdiff.cli import main

    monkeypatch.chdir(tmp_path)
    words = ["sequence", "generate", "--masked", "--model", folders["letters"], "--length", "5"]
    more = ["--reward", "motif:ACE", "--scale", "4", "--n", "3", "--steps", "4"]
    assert main([*words, *more, "--particles", "4", "--out", "d.fasta"]) == 0
    rows = list(csv.DictReader(Path("d.csv").read_text().splitlines()))
    assert [len(row["sequence"]) for row in rows] == [5] * 3 and "reward" in rows[0]
    told = json.loads(Path("d.json").read_text())
    assert "motif" in told["target"] and set(told["summary"]) == {"designs", "plain"}
    assert Path("d.png").read_bytes()[:4] == b"\x89PNG"
    lines = ["sequence", "generate", "--masked", "--model", folders["words"], "--prompt", "a red"]
    assert main([*lines, "--length", "2", "--n", "2", "--steps", "2", "--out", "w.txt"]) == 0
    assert len(Path("w.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--length", "0"], "length must be at least 1"),
        ([], "prompt must hold"),
        (["--length", "3", "--reward", "brightness"], "not texts"),
        (["--length", "3", "--reward", "motiff"], "did you mean"),
        (["--length", "3", "--guide", "amp"], "belongs to flows"),
        (["--length", "3", "--temperature", "0", "--reward", "motif:A"], "must be positive"),
    ],
)
def test_command_line_refuses(folders, tmp_path, monkeypatch, capsys, words, told):
    from fkdiff.cli import main

    monkeypatch.chdir(tmp_path)
    line = ["sequence", "generate", "--masked", "--model", folders["letters"], *words]
    assert main(line) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_line_tells_of_a_model_without_masks(folders, tmp_path, monkeypatch, capsys):
    from fkdiff.cli import main

    monkeypatch.chdir(tmp_path)
    line = ["sequence", "generate", "--masked", "--model", folders["causal"], "--length", "2"]
    assert main(line) == 2
    assert "can't be loaded as a masked language model" in capsys.readouterr().err


@pytest.mark.skipif(installed() is None, reason="antiberty==0.1.3 (extra `antibody`) isn't there")
def test_the_antibody_model_knows_antibodies(tmp_path):
    pipe = quiet(antibody_pipeline(tmp_path / "model"))
    assert not list((tmp_path / "model").rglob("*.bin"))
    prompt = "EVQLVESGGGLVQPGGSLRLSCAAS" + "[MASK]" * 10 + "WVRQAPGKGLEWVS"
    tokens = pipe.vocabulary.template([prompt], None)
    masked = torch.where(tokens < 0, 4, tokens)
    logits = pipe.denoiser()(masked, 0.0)
    g = pipe.tokenizer.convert_tokens_to_ids("G")
    assert float(logits[0].softmax(-1)[26, g]) > 0.8  # most human heavy chains go on with GFTF
    again = quiet(antibody_pipeline(tmp_path / "model"))
    assert torch.equal(again.denoiser()(masked, 0.0), logits)


def test_a_list_of_generators_gives_each_text_its_own(pipe):
    reward = Tilt(MotifPresence("ACE"), 2.0)
    call = dict(length=6, num_inference_steps=3, terms=[reward], resample=ALWAYS)
    both = pipe(2, **call, generator=[seeded(1), seeded(2)]).steering
    for place, number in enumerate((1, 2)):
        alone = pipe(1, **call, generator=seeded(number)).steering
        assert torch.equal(both.latents[place], alone.latents[0])
    one = seeded(1)
    first, second = (pipe(1, **call, generator=one).steering for _ in range(2))
    assert torch.equal(first.latents[0], both.latents[0])
    assert not torch.equal(first.latents, second.latents)
    with pytest.raises(ValueError, match="generator must be one, .* each of 2 sequences, got 3"):
        pipe(2, **call, generator=[one] * 3)

"""Each stage of the recipes: the loss falls, and a resumed run repeats the uninterrupted one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from fkdiff.zoo.answer_recipe import AnswerTask
from fkdiff.zoo.autoencoder import AutoencoderTask, autoencoder, encode, pictures
from fkdiff.zoo.denoiser import DenoiserTask, scheduler
from fkdiff.zoo.dual_encoder import DualEncoderTask, retrieval
from fkdiff.zoo.export import export_dual_encoder, export_pipeline
from fkdiff.zoo.latents import CHUNK, LatentData, cache_latents
from fkdiff.zoo.loop import Fit, Trainer
from fkdiff.zoo.measure import load_scorer, quality, sample_prompts
from fkdiff.zoo.scenes import render, sample_scene
from fkdiff.zoo.sprites import Sprites
from fkdiff.zoo.verifier import JudgeTask
from fkdiff.zoo.vocabulary import LENGTH, build_tokenizer
from fkdiff.zoo.words import known_words

Make = Callable[[Fit, Path], Trainer]


def _data() -> LatentData:
    rng = np.random.default_rng(0)
    tokens = build_tokenizer()(["a cat on a red background"] * 8, padding="max_length").input_ids
    latents = np.tile(rng.normal(size=(1, 4, 16, 16)), (8, 1, 1, 1)).astype(np.float16)
    return LatentData(latents, np.array(tokens), 1.0)


@pytest.fixture(params=["vae", "emoji", "clip", "judge", "vqa"])
def make(request: pytest.FixtureRequest, sprites: Sprites) -> Make:
    """Builds the trainer of one stage at a tiny batch."""
    return {
        "vae": lambda fit, out: AutoencoderTask(sprites, fit, out, batch=4).trainer,
        "emoji": lambda fit, out: DenoiserTask(_data(), fit, out, batch=4).trainer,
        "clip": lambda fit, out: DualEncoderTask(sprites, None, fit, out, batch=8).trainer,
        "judge": lambda fit, out: JudgeTask(sprites, None, fit, out, batch=8).trainer,
        "vqa": lambda fit, out: AnswerTask(sprites, None, fit, out, batch=8).trainer,
    }[request.param]


def test_loss_falls(make: Make, tmp_path: Path) -> None:
    losses = make(Fit(steps=20, lr=1e-3, warmup=2, hold=1.0), tmp_path).run()
    # The first steps, before any learning: scenes differ much in how hard they are.
    assert np.mean(losses[-6:]) < np.mean(losses[:2])


def test_resume_is_exact(make: Make, tmp_path: Path) -> None:
    fit = Fit(steps=6, lr=1e-3, warmup=2, ema=0.9)
    whole = make(fit, tmp_path / "whole")
    losses = whole.run()
    first = make(fit, tmp_path / "parts")
    start = first.run(until=3)
    second = make(fit, tmp_path / "parts")
    second.resume()
    assert second.step == 3
    assert start + second.run() == losses
    for name, value in whole.averaged().items():
        assert torch.equal(value, second.averaged()[name]), name


def test_warm_start_begins_at_the_given_weights(make: Make, tmp_path: Path) -> None:
    first = make(Fit(steps=2, lr=1e-3, warmup=1), tmp_path / "first")
    first.run()
    second = make(Fit(steps=2, lr=1e-3, ema=0.9, seed=1), tmp_path / "second")
    second.adopt(first.averaged())
    for name, value in second.averaged().items():
        assert torch.equal(value, first.averaged()[name]), name


def test_encoder_is_the_principal_components_of_cells_and_stands_still(
    sprites: Sprites, tmp_path: Path
) -> None:
    task = AutoencoderTask(sprites, Fit(steps=4, lr=1e-3), tmp_path, batch=2, scenes=50)
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    task.trainer.run()
    moved = {k.split(".")[0] for k, v in task.model.state_dict().items() if (v != before[k]).any()}
    assert moved == {"decoder"}
    rng = np.random.default_rng(0)
    x = pictures([render(sample_scene(rng), sprites, rng) for _ in range(50)])
    # By hand: a cell of 4x4 pixels goes to its own four numbers and nowhere else.
    cells = x.unflatten(2, (16, 4)).unflatten(4, (16, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    rows = torch.cat([cells.flatten(0, 2), torch.ones(50 * 256, 1)], 1).double()
    z = encode(task.model, x).permute(0, 2, 3, 1).reshape(-1, 4).double()
    fit = torch.linalg.lstsq(rows, z, driver="gelsd").solution
    assert (rows @ fit - z).abs().max() < 1e-4
    # And no other four numbers of a cell would tell more of it than these.
    back = torch.linalg.lstsq(torch.cat([z, rows[:, -1:]], 1), rows[:, :-1]).solution
    left = (torch.cat([z, rows[:, -1:]], 1) @ back - rows[:, :-1]).square().sum()
    values = torch.linalg.svdvals(rows[:, :-1] - rows[:, :-1].mean(0))
    assert left < 1.05 * values[4:].square().sum()


def test_latents_have_unit_deviation_and_resume(
    sprites: Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fkdiff.zoo.latents.CHUNK", 20)
    assert CHUNK != 20
    torch.manual_seed(0)
    model = autoencoder().eval()
    whole = cache_latents(model, sprites, 60, tmp_path / "a", seed=1, resume=False)
    cache_latents(model, sprites, 60, tmp_path / "b", seed=1, resume=False)
    note = tmp_path / "b" / "latents.json"
    note.write_text(note.read_text().replace("60", "20"))
    again = cache_latents(model, sprites, 60, tmp_path / "b", seed=1, resume=True)
    assert np.array_equal(whole.latents, again.latents)
    assert np.array_equal(whole.tokens, again.tokens)
    assert whole.latents.shape == (60, 4, 16, 16)
    cache_latents(model, sprites, 40, tmp_path / "c", seed=1, resume=False)
    longer = cache_latents(model, sprites, 60, tmp_path / "c", seed=1, resume=True)
    assert np.array_equal(whole.latents[:40], longer.latents[:40]) and longer.latents[40:].any()
    assert np.array_equal(whole.tokens, longer.tokens)
    assert 0.8 < np.float32(whole.latents).std() < 1.2


def test_learning_rate_warms_up_holds_and_decays() -> None:
    fit = Fit(steps=100, lr=1.0, warmup=10, hold=0.5)
    assert [fit.lr_at(s) for s in (0, 9, 49, 75)] == pytest.approx([0.1, 1.0, 1.0, 0.5])


def test_every_word_is_one_token() -> None:
    tokenizer = build_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 3 for word in known_words())
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.model_max_length == LENGTH


def test_noise_ends_close_to_zero_signal_but_above() -> None:
    alphas = scheduler().alphas_cumprod
    assert 0 < alphas[-1] < 1e-3


def test_training_encodes_texts_as_open_clip_does(sprites: Sprites, tmp_path: Path) -> None:
    task = DualEncoderTask(sprites, None, Fit(steps=1, lr=1e-3), tmp_path, batch=8)
    texts = ["a cat", "a cat to the left of an owl on a red background"]
    ids = torch.tensor(build_tokenizer()(texts, padding="max_length").input_ids)
    torch.testing.assert_close(task._encode_text(texts), task.model.encode_text(ids))


def test_retrieval_reports_kinds(sprites: Sprites, tmp_path: Path) -> None:
    task = DualEncoderTask(sprites, None, Fit(steps=1, lr=1e-3), tmp_path, batch=8)
    table = retrieval(task.model.eval(), sprites, scenes=2, split="held_out")
    assert {"pair/object", "relation/side", "binding/colour", "four/all"} <= set(table)
    assert all(0 <= value <= 1 for value in table.values())


def test_exported_models_load_and_are_measured(sprites: Sprites, tmp_path: Path) -> None:
    fit, out = Fit(steps=1, lr=1e-4, ema=0.9), tmp_path / "training"
    AutoencoderTask(sprites, fit, out / "vae", batch=2).trainer.run()
    task = DenoiserTask(_data(), fit, out / "emoji", batch=2)
    task.trainer.run()
    DualEncoderTask(sprites, None, fit, out / "clip", batch=8).trainer.run()
    (out / "latents").mkdir()
    (out / "latents" / "latents.json").write_text('{"scale": 0.25, "scenes": 0}')
    export_pipeline(out, tmp_path / "emoji")
    export_dual_encoder(out, tmp_path / "clip")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "emoji")
    assert pipe.vae.config.scaling_factor == 0.25
    average = task.trainer.averaged()["unet.conv_in.weight"]
    torch.testing.assert_close(pipe.unet.conv_in.weight, average, atol=1e-3, rtol=1e-3)
    score = load_scorer(tmp_path / "clip")[1]
    sampled = sample_prompts(tmp_path / "emoji", ["a cat on a red background"], 2.0, steps=2)
    found = quality(sampled, score)
    assert set(found["met"]) == {"single", "all"}
    assert -1 <= found["mean"] <= 1

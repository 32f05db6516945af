"""Training recipes of the bundled models: `python -m fkdiff.zoo.train STAGE --out DIR`.

The stages, in order: vae, latents, clip, judge, emoji, vqa, export, measure, sheet, card,
emoji-rl, emoji-lcm.
Training resumes with --resume, and starts from the bundled weights with --warm; emoji-rl and
emoji-lcm tune the bundled emoji. Stage sheet draws pictures to be labelled by eye, and card tells
anew how far the judge agrees with the labels. The stages that train also run under torchrun, each
process with its share of the batch.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from fkdiff.zoo import card, prompts
from fkdiff.zoo.answer_card import calibrate, export_answerer, stated_values, tune_prompts
from fkdiff.zoo.answer_recipe import AnswerTask
from fkdiff.zoo.answerer import Answerer
from fkdiff.zoo.autoencoder import AutoencoderTask
from fkdiff.zoo.cards import write_card
from fkdiff.zoo.consistency import ConsistencyTask
from fkdiff.zoo.denoiser import DenoiserTask
from fkdiff.zoo.dual_encoder import DualEncoderTask
from fkdiff.zoo.export import (
    export_dual_encoder,
    export_judge,
    export_pipeline,
    load_autoencoder,
    read_part,
)
from fkdiff.zoo.judge import load_judge
from fkdiff.zoo.labels import agreement, draw_sheet
from fkdiff.zoo.latents import LatentData, cache_latents
from fkdiff.zoo.loop import Fit, Trainer
from fkdiff.zoo.measure import PLACEHOLDERS, few_steps, load_scorer, measure, sample_prompts
from fkdiff.zoo.policy_gradient import Policy, PolicyGradientTask, export_adapter
from fkdiff.zoo.sprites import Sprites, fetch, load_art
from fkdiff.zoo.verifier import JudgeTask, exact_share
from fkdiff.zoo.vocabulary import build_tokenizer, carried_over

__all__ = ["STAGES", "main"]

ZOO = Path(__file__).parent
BATCH = {"vae": 8, "emoji": 32, "clip": 64, "judge": 64, "vqa": 64}
BUNDLED = {
    "vae": ZOO / "emoji/vae/diffusion_pytorch_model.safetensors",
    "unet": ZOO / "emoji/unet/diffusion_pytorch_model.safetensors",
    "text_encoder": ZOO / "emoji/text_encoder/model.safetensors",
    "clip": ZOO / "emoji_clip/open_clip_model.safetensors",
    "judge": ZOO / "emoji_judge/model.safetensors",
    "vqa": ZOO / "emoji_vqa/model.safetensors",
}
NAMES = {"emoji": "emoji", "clip": "emoji-clip"}
PARTS = {"vae": "vae", "emoji": "unet", "clip": "clip", "judge": "judge"}


def _fit(args: argparse.Namespace, batch: int, lr: float, **rest: Any) -> Fit:
    """Settings of a run that sees `args.images` pictures, `batch` a step."""
    where = {"device": args.device, "bf16": args.bf16, "seed": args.seed}
    return Fit(args.images // batch, lr=lr if args.lr is None else args.lr, **where, **rest)


def _sprites(args: argparse.Namespace) -> Sprites:
    return Sprites(load_art(fetch(args.out / "cache")))


def _run(trainer: Trainer, args: argparse.Namespace) -> None:
    if args.warm:
        trainer.adopt(
            {
                f"{part}.{key}": value
                for part in trainer.modules
                for key, value in _bundled(part).items()
            }
        )
    if args.resume:
        trainer.resume()
    trainer.run()


def _bundled(part: str) -> dict[str, Tensor]:
    """The bundled weights of a module; words that it never saw get the mean embedding."""
    weights = load_file(BUNDLED[part])
    folder = {"text_encoder": ZOO / "emoji/tokenizer", "clip": ZOO / "emoji_clip"}.get(part)
    if folder is not None:
        old = CLIPTokenizer.from_pretrained(folder).get_vocab()
        (key,) = (name for name in weights if "token_embedding" in name)
        new = build_tokenizer().get_vocab()
        weights[key] = carried_over(weights[key].float(), old, new)
    return weights


def _vae(args: argparse.Namespace) -> None:
    fit = _fit(args, BATCH["vae"], 2e-3, hold=0.5, ema=0.999, weight_decay=0.0)
    task = AutoencoderTask(_sprites(args), fit, args.out / "vae")
    if not args.resume:
        task.trainer.save()  # the encoder is final: `latents` and `emoji` needn't wait
    _run(task.trainer, args)


def _latents(args: argparse.Namespace) -> None:
    model, folder = load_autoencoder(args.out), args.out / "latents"
    cache_latents(model, _sprites(args), args.images, folder, seed=args.seed, resume=args.resume)


def _emoji(args: argparse.Namespace) -> None:
    share = BATCH["emoji"] // (dist.get_world_size() if dist.is_initialized() else 1)
    fit = _fit(args, BATCH["emoji"], 6e-4, hold=0.6, ema=0.999)
    data = LatentData.load(args.out / "latents")
    _run(DenoiserTask(data, fit, args.out / "emoji", batch=share).trainer, args)


def _clip(args: argparse.Namespace) -> None:
    fit = _fit(args, BATCH["clip"], 1e-3, hold=0.3)
    vae = load_autoencoder(args.out)
    _run(DualEncoderTask(_sprites(args), vae, fit, args.out / "clip").trainer, args)


def _judge(args: argparse.Namespace) -> None:
    fit = _fit(args, BATCH["judge"], 2e-3, hold=0.3, ema=0.99)
    sprites, vae = _sprites(args), load_autoencoder(args.out)
    before = card("emoji-judge")["images"] if args.warm else 0
    task = JudgeTask(sprites, vae, fit, args.out / "judge")
    _run(task.trainer, args)
    export_judge(args.out, ZOO / "emoji_judge")
    _judge_card(sprites, vae, args.seed, task.trainer.step * BATCH["judge"] + before)


def _vqa(args: argparse.Namespace) -> None:
    fit = _fit(args, BATCH["vqa"], 2e-3, hold=0.3, ema=0.998, weight_decay=0.02)
    pipe = _emoji_pipe()
    sprites = _sprites(args)
    task = AnswerTask(sprites, pipe, fit, args.out / "vqa")
    _run(task.trainer, args)
    before = card("emoji-vqa")["images"] if args.warm else 0
    task.trainer.modules.load_state_dict(task.trainer.averaged())
    net = task.net.to("cpu").eval()
    scales, quality = calibrate(net, sprites, pipe)
    drawn = sample_prompts(ZOO / "emoji", tune_prompts(96), 3.0, steps=20)
    stated = stated_values(Answerer(net, scales), drawn.images, drawn.prompts)
    export_answerer(net, ZOO / "emoji_vqa")
    facts = {"defaults": {}, "quality": quality, "calibration": {**stated, "clauses": scales}}
    facts |= {"seed": args.seed, "images": task.trainer.step * BATCH["vqa"] + before}
    write_card("emoji-vqa", ZOO / "emoji_vqa", facts)


def _judge_card(sprites: Sprites, vae: AutoencoderTiny, seed: int, images: int) -> None:
    folder = ZOO / "emoji_judge"
    judge = load_judge(folder)
    quality: dict[str, Any] = {
        "exact, fresh renders": exact_share(judge, sprites, None),
        "exact, through the autoencoder": exact_share(judge, sprites, vae),
    }
    if (folder / "labelled.json").exists():
        quality["generated pictures labelled by eye"] = agreement(judge, folder)
    facts = {"defaults": {}, "quality": quality, "seed": seed, "images": images}
    write_card("emoji-judge", folder, facts)


def _sheet(args: argparse.Namespace) -> None:
    draw_sheet(ZOO / "emoji_judge", args.images)


def _card(args: argparse.Namespace) -> None:
    known = card("emoji-judge")
    _judge_card(_sprites(args), load_autoencoder(args.out), known["seed"], known["images"])


def _facts(args: argparse.Namespace, stage: str) -> dict[str, Any]:
    """What a card says of a run: its seed and images, and what stage `measure` found."""
    file = args.out / stage / "state.safetensors"
    found = args.out / "quality.json"
    measured = json.loads(found.read_text())[stage] if found.exists() else PLACEHOLDERS[stage]
    if not file.exists():  # measured anew, not trained
        bundled = card(NAMES[stage])
        return {"seed": bundled["seed"], "images": bundled["images"], **measured}
    before = card(NAMES[stage])["images"] if args.warm else 0
    images = before + read_part(file, PARTS[stage])[1] * BATCH[stage]
    return {"seed": args.seed, "images": images, **measured}


def _export(args: argparse.Namespace) -> None:
    """Writes what was trained, and a card for it."""
    export_pipeline(args.out, ZOO / "emoji")
    write_card("emoji", ZOO / "emoji", _facts(args, "emoji"))
    if (args.out / "clip" / "state.safetensors").exists():
        export_dual_encoder(args.out, ZOO / "emoji_clip")
    write_card("emoji-clip", ZOO / "emoji_clip", _facts(args, "clip"))


def _measure(args: argparse.Namespace) -> None:
    facts = measure(ZOO / "emoji", ZOO / "emoji_clip", _sprites(args), args.images)
    (args.out / "quality.json").write_text(json.dumps(facts, indent=1))
    _export(args)


def _emoji_rl(args: argparse.Namespace) -> None:
    pipe = _emoji_pipe()
    _, cosines = load_scorer(ZOO / "emoji_clip")
    calibration = card("emoji-clip")["calibration"]

    def reward(pictures: Tensor, texts: Sequence[str]) -> Tensor:
        known = sorted(set(texts))
        table = cosines(pictures, known)
        chosen = table[torch.arange(len(texts)), [known.index(text) for text in texts]]
        return (chosen - calibration["mean"]) / calibration["sd"]

    policy = Policy(beta=args.beta)
    world = dist.get_world_size() if dist.is_initialized() else 1
    fit = Fit(
        args.images // (policy.batch * world),
        lr=3e-4 if args.lr is None else args.lr,
        warmup=20,
        hold=0.5,
        ema=0.98,
        weight_decay=0.0,
        seed=args.seed,
    )
    task = PolicyGradientTask(pipe, reward, prompts("tune"), fit, args.out / "emoji-rl", policy)
    _run(task.trainer, args)
    if task.trainer.rank > 0:
        return
    weights = task.trainer.averaged()
    export_adapter(weights, ZOO / "emoji_rl")
    task.trainer.modules.load_state_dict(weights)
    found = {k: round(v, 3) for k, v in task.gain(150, args.seed).items()}
    facts = {"defaults": {"guidance_scale": policy.guidance}, "quality": found, **asdict(policy)}
    facts |= {"seed": args.seed, "images": task.trainer.step * policy.batch * world}
    write_card("emoji-rl", ZOO / "emoji_rl", facts)


def _emoji_lcm(args: argparse.Namespace) -> None:
    pipe, data = _emoji_pipe(), LatentData.load(args.out / "latents")
    fit = _fit(args, BATCH["emoji"], 3e-4, hold=0.5, ema=0.99, weight_decay=0.0)
    task = ConsistencyTask(pipe, data, fit, args.out / "emoji-lcm", batch=BATCH["emoji"])
    _run(task.trainer, args)
    export_adapter(task.trainer.averaged(), ZOO / "emoji_lcm")
    defaults = {"guidance_scale": 1.0, "num_inference_steps": 4}
    facts = {"defaults": defaults, "quality": few_steps(), "guidance": task.guidance}
    facts |= {"seed": args.seed, "images": task.trainer.step * BATCH["emoji"]}
    write_card("emoji-lcm", ZOO / "emoji_lcm", facts)


def _emoji_pipe() -> Any:
    pipe: Any = StableDiffusionPipeline.from_pretrained(ZOO / "emoji")
    pipe.unet.to(memory_format=torch.channels_last)  # a tenth faster on CPUs
    return pipe


# Stage -> what it does, and how many images it sees by default.
STAGES: dict[str, tuple[Callable[[argparse.Namespace], None], int]] = {
    "vae": (_vae, 40_000),
    "latents": (_latents, 50_000),
    "clip": (_clip, 100_000),
    "judge": (_judge, 60_000),
    "vqa": (_vqa, 200_000),
    "emoji": (_emoji, 200_000),
    "export": (_export, 1),
    "measure": (_measure, 150),
    "sheet": (_sheet, 100),
    "card": (_card, 1),
    "emoji-rl": (_emoji_rl, 38_400),
    "emoji-lcm": (_emoji_lcm, 100_000),
}


def main(argv: list[str] | None = None) -> None:
    """Parses a command line and runs one stage."""
    parser = argparse.ArgumentParser(prog="python -m fkdiff.zoo.train", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, default=Path("training/zoo"))
    parser.add_argument("--images", type=int, help="how many the stage sees; each has a default")
    parser.add_argument("--lr", type=float, help="peak learning rate; each stage has a default")
    parser.add_argument("--beta", type=float, default=0.5, help="strength of emoji-rl's KL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, mps")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 where it helps")
    parser.add_argument("--warm", action="store_true", help="start from the bundled weights")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO)
    stage, images = STAGES[args.stage]
    args.images = images if args.images is None else args.images
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    stage(args)


if __name__ == "__main__":
    main()

"""Writes the trained weights as the folders that ship: fp16 safetensors and a card each."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fkdiff.zoo.autoencoder import autoencoder
from fkdiff.zoo.denoiser import denoiser, scheduler, text_encoder
from fkdiff.zoo.dual_encoder import CONFIG
from fkdiff.zoo.vocabulary import build_tokenizer

__all__ = [
    "export_dual_encoder",
    "export_judge",
    "export_pipeline",
    "load_autoencoder",
    "read_part",
]

_HALF = [0.5, 0.5, 0.5]


def read_part(file: Path, part: str, *, average: bool = True) -> tuple[dict[str, Tensor], int]:
    """The weights of one module in a checkpoint, averaged where there is an average, and its step.

    Arguments:
        file: `state.safetensors` of a stage.
        part: "vae", "unet", "text_encoder" or "clip".
        average: Prefer the running average.
    """
    weights: dict[str, Tensor] = {}
    with safe_open(file, "pt") as state:
        keys = list(state.keys())
        for source in ("model", "ema") if average else ("model",):
            start = f"{source}/{part}."
            for key in keys:
                if key.startswith(start):
                    weights[key.removeprefix(start)] = state.get_tensor(key)
        step = int(state.metadata()["step"])
    if not weights:
        raise ValueError(f"part must be in the checkpoint, {file} has no {part!r}; train it first")
    return weights, step


def _filled(module: nn.Module, file: Path, part: str) -> Any:
    module.load_state_dict(read_part(file, part)[0])
    return module.eval()


def load_autoencoder(folder: Path) -> AutoencoderTiny:
    """The autoencoder of a training folder, for evaluation."""
    model = _filled(autoencoder(), folder / "vae" / "state.safetensors", "vae")
    return model.to(memory_format=torch.channels_last)


def export_pipeline(folder: Path, target: Path) -> None:
    """Writes `emoji` in the layout of `save_pretrained`.

    Arguments:
        folder: Training folder with the stages `vae`, `latents` and `emoji`.
        target: Where the pipeline goes.
    """
    vae = load_autoencoder(folder)
    scale = json.loads((folder / "latents" / "latents.json").read_text())["scale"]
    vae.register_to_config(scaling_factor=round(scale, 6))
    state = folder / "emoji" / "state.safetensors"
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": _filled(text_encoder(), state, "text_encoder"),
        "tokenizer": build_tokenizer(),
        "unet": _filled(denoiser(), state, "unet"),
        "scheduler": scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    pipeline.save_pretrained(target, safe_serialization=True)
    _say_float32(target / "text_encoder" / "config.json")
    _readable(target)


def _say_float32(file: Path) -> None:
    # transformers loads in the type that the configuration names; half precision is slow on CPUs.
    config = json.loads(file.read_text())
    config["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _readable(folder: Path) -> None:
    # safetensors writes files for their owner alone; an installed package is read by everybody.
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def export_dual_encoder(folder: Path, target: Path) -> None:
    """Writes `emoji-clip` as open_clip reads it from a local folder.

    Arguments:
        folder: Training folder with the stage `clip`.
        target: Where the weights, settings and tokenizer go.
    """
    weights, _ = read_part(folder / "clip" / "state.safetensors", "clip")
    target.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    half = {key: value.contiguous() for key, value in half.items()}
    save_file(half, target / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = {"mean": _HALF, "std": _HALF, "size": 64, "interpolation": "bicubic"}
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    (target / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    build_tokenizer().save_pretrained(target)
    _readable(target)


def export_judge(folder: Path, target: Path) -> None:
    """Writes `emoji-judge` as `load_judge` reads it.

    Arguments:
        folder: Training folder with the stage `judge`.
        target: Where the weights go.
    """
    state = folder / "judge" / "state.safetensors"
    # Batch statistics are buffers: the average holds parameters alone, the rest comes as it is.
    weights, _ = read_part(state, "judge")
    target.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    save_file({k: v.contiguous() for k, v in half.items()}, target / "model.safetensors")
    _readable(target)

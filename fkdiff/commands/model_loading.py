"""A pipeline by its name or folder, on its device; what can't be loaded is refused."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.stops import refused
from fkdiff.files import json_of

if TYPE_CHECKING:
    from fkdiff.commands.request import Request

__all__ = ["class_in", "load_pipeline"]

_COMPUTING = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")


def class_in(folder: Path, option: str = "--model") -> str:
    """The name of the class that a pipeline's folder states.

    Raises:
        Stop: With code 2, if its `model_index.json` is missing, damaged or states none.
    """
    file = folder / "model_index.json"
    if not os.path.isfile(file):
        raise refused(
            f"{option} {folder} isn't a diffusers pipeline: it has no model_index.json; give a "
            f"folder written by save_pretrained, a Hub id or a bundled model"
        )
    try:
        found = json_of(file.read_bytes())
    except (OSError, ValueError) as error:
        told = f"{file.name} is damaged ({_first_line(error)})"
        raise refused(f"{option} {folder} can't be loaded: {told}") from None
    name = found.get("_class_name") if isinstance(found, dict) else None
    if not isinstance(name, str):
        raise refused(
            f"{option} {folder} can't be loaded: its {file.name} must be an object that states "
            f"_class_name; save the pipeline again by save_pretrained"
        )
    return name


def load_pipeline(request: "Request") -> Any:
    """The request's pipeline, on its device.

    Raises:
        Stop: With code 2, if it can't be had.
    """
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()  # loading parts; downloads keep their bars
        logging.set_verbosity(logging.CRITICAL)  # what goes wrong is told below, once
    device = request.device
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    kind = torch.float32 if device == "cpu" else torch.bfloat16
    if isinstance(request.source, Path):
        class_in(request.source)
    try:
        pipe: Any = DiffusionPipeline.from_pretrained(request.source, dtype=kind)
    except Exception as error:  # what a folder of any origin holds fails in any way
        raise refused(f"--model {request.model} {_unloadable(request, error)}") from None
    _check_parts(request, pipe)
    try:
        return pipe.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise refused(f"--device {device} can't be used: {_first_line(error)}") from None


def _has_files(source: Any, part: str) -> bool:
    """Whether a folder holds a part of the pipeline; what comes from elsewhere does."""
    if not isinstance(source, Path):
        return True
    return os.path.isdir(source / part) and bool(os.listdir(source / part))


def _check_device(device: str) -> None:
    """Refuse a device that isn't here, or on which nothing is computed."""
    import torch

    try:
        kind = torch.device(device).type
        if kind not in _COMPUTING:
            raise ValueError(f"it must be one of {', '.join(_COMPUTING)}")
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise refused(f"--device {device} can't be used: {_first_line(error)}") from None


def _check_parts(request: "Request", pipe: Any) -> None:
    """Refuse a pipeline that lacks a part which its class can't do without."""
    optional = getattr(pipe, "_optional_components", ())
    parts = getattr(pipe, "components", {})
    lost = [
        name
        for name, part in parts.items()
        if (part is None and name not in optional)
        # A tokenizer of no files is made up without a word.
        or (part is not None and not _has_files(request.source, name))
    ]
    if lost:
        raise refused(
            f"--model {request.model} has no {' and no '.join(lost)}, which {type(pipe).__name__} "
            f"needs; save the whole pipeline again by save_pretrained"
        )


def _unloadable(request: "Request", error: Exception) -> str:
    if isinstance(request.source, Path):
        return f"can't be loaded: {_first_line(error)}"
    told = f"isn't on this machine and can't be fetched from the Hub ({type(error).__name__})"
    return f"{told}; check its name, the network and your access to it"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

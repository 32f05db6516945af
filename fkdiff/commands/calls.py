"""A request as a call of its pipeline, and where its run goes."""

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fkdiff.commands.request import Request
from fkdiff.commands.stops import refused

__all__ = ["call_arguments", "free_folder"]


def call_arguments(request: Request, pipe: Any) -> dict[str, Any]:
    """The pipeline's arguments; one that it doesn't have is refused by its option's name."""
    known = inspect.signature(type(pipe).__call__).parameters
    prompts: Any = list(request.prompts)
    call: dict[str, Any] = {"prompt": prompts if len(prompts) > 1 else prompts[0]}
    if "prompt" not in known and "class_labels" in known:
        call = {"class_labels": _labels(request.prompts, pipe)}
    options = {
        "num_inference_steps": ("--steps", request.steps),
        "guidance_scale": ("--guidance", request.guidance),
        "negative_prompt": ("--negative-prompt", _as_often(request.negative_prompt, prompts)),
        "height": ("--height", request.height),
        "width": ("--width", request.width),
        "num_images_per_prompt": ("--images", None if request.images == 1 else request.images),
    }
    call |= {name: value for name, (_, value) in options.items() if value is not None}
    for name in call:
        if name not in known:
            option = options[name][0] if name in options else "PROMPT"
            raise refused(f"{option} can't be used: {type(pipe).__name__} takes no {name}")
    return call


def _as_often(negative: str | None, prompts: Sequence[str]) -> str | list[str] | None:
    """Pipelines want as many negative prompts as prompts, and of the same type."""
    return negative if negative is None or len(prompts) == 1 else [negative] * len(prompts)


def _labels(prompts: Sequence[str], pipe: Any) -> list[int]:
    if all(prompt.isdigit() for prompt in prompts):
        return [int(prompt) for prompt in prompts]
    try:
        return pipe.get_label_ids(list(prompts))
    except (AttributeError, ValueError) as error:
        raise refused(f"PROMPT must be a class of {type(pipe).__name__}: {error}") from None


def free_folder(prompt: str) -> Path:
    """A folder below runs/ named after a prompt, that is not there yet."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].rstrip("-") or "run"
    from fkdiff.report import check_folder

    names = (slug if n == 1 else f"{slug}-{n}" for n in range(1, sys.maxsize))
    try:
        return check_folder(next(f for n in names if not (f := Path("runs") / n).exists()))
    except OSError as error:
        raise refused(f"{error}, with --out") from None

"""Reads a run folder back: the result that was saved there, checked before it is used."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fkdiff.files import json_of
from fkdiff.report.facts import FORMAT
from fkdiff.result import Cost, Result, Trace

__all__ = ["load"]


def load(folder: str | Path) -> Result:
    """Return the result that `Result.save` wrote into a folder.

    Pictures come from their PNG files, so that samples are rounded to 1/255.

    Arguments:
        folder: A run folder, with `result.json`, `metrics.json` and `result.safetensors`.

    Raises:
        ValueError: If the folder holds no run, a damaged one, or one of a later version.
    """
    folder = Path(folder).expanduser()
    about, metrics = (_json(folder / name) for name in ("result.json", "metrics.json"))
    try:
        tensors = load_file(folder / "result.safetensors")
        version = about.get("format", FORMAT)
        if version > FORMAT:
            raise ValueError(f"format must be at most {FORMAT}, got {version}; update fkdiff")
        return _checked(_result(folder, about, metrics, tensors))
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"folder must hold a whole run, {folder} doesn't: {error!r}") from None


def _json(path: Path) -> Any:
    try:
        return json_of(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"folder must be a run folder, {path} doesn't exist; name what --out or save() named"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"folder must hold a whole run, {path} can't be read: {error}") from None


def _result(folder: Path, about: Any, metrics: Any, tensors: dict[str, Tensor]) -> Result:
    prompts, settings, cost = about["prompts"], about["settings"], about["cost"]
    return Result(
        prompts=prompts,
        latents=tensors["latents"],
        samples=_samples(folder, about, tensors),
        log_w=tensors["log_w"],
        rewards={name: tensors[f"rewards.{name}"] for name in about["reward_names"]},
        log_twist=tensors["log_twist"],
        rows=[_moved(rows) for rows in tensors.get("ancestors", ())],
        trace=[_trace(place, entry, tensors) for place, entry in enumerate(metrics)],
        selected=tensors["selected"],
        target=about["target"],
        settings=settings,
        seed=about["seed"],
        cost=Cost(**cost),
        complete=about["complete"],
        repair=tensors.get("repair"),
    )


def _moved(rows: Tensor) -> Tensor | None:
    return None if torch.equal(rows, torch.arange(len(rows))) else rows


def _trace(place: int, entry: dict[str, Any], tensors: dict[str, Tensor]) -> Trace:
    head = f"trace.{entry['index']:04d}.rewards."
    variance = entry["variance"]
    return Trace(
        index=entry["index"],
        alpha=_number(entry["alpha"]),
        sigma=_number(entry["sigma"]),
        ess=tensors["trace.ess"][place],
        resampled=tensors["trace.resampled"][place],
        rewards={name: tensors[head + name] for name in entry["rewards"]},
        variance=None if variance is None else torch.tensor([*map(_number, variance)]).double(),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # JSON has no other word for it


def _samples(folder: Path, about: Any, tensors: dict[str, Tensor]) -> Tensor | None:
    if about["samples"] != "images":
        return tensors.get("samples")
    shape = tensors["log_w"].shape
    pictures: dict[tuple[int, int], Tensor] = {}
    for particle in about["particles"]:
        if not re.fullmatch(r"images/\d{4,}\.png", particle["file"]):
            raise ValueError(f"file must be images/NNNN.png, got {particle['file']!r}")
        pictures[particle["prompt"], particle["slot"]] = _picture(folder / particle["file"])
    rows = [pictures[prompt, slot] for prompt in range(shape[0]) for slot in range(shape[1])]
    return torch.stack(rows).unflatten(0, shape)


def _picture(path: Path) -> Tensor:
    with Image.open(path) as image:
        values = np.array(image, np.float32) / 255
    return torch.from_numpy(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _checked(result: Result) -> Result:
    """Refuse tensors that don't fit each other: a run folder may come from anybody."""
    prompts, particles = len(result.prompts), result.log_w.shape[-1]
    shape = (prompts, particles)
    for name in ("log_w", "log_twist", "latents", *result.rewards):
        value = result.rewards[name] if name in result.rewards else getattr(result, name)
        if tuple(value.shape[:2]) != shape:
            raise ValueError(f"{name} must be {shape} + ..., got {tuple(value.shape)}")
    if result.repair is not None and tuple(result.repair.shape) != (prompts,):
        raise ValueError(f"repair must be ({prompts},), got {tuple(result.repair.shape)}")
    for rows in result.rows:
        inside = rows is None or (
            rows.shape == (prompts * particles,) and rows.dtype == torch.int64
        )
        if not inside or (
            rows is not None and not 0 <= int(rows.min()) <= int(rows.max()) < len(rows)
        ):
            raise ValueError(f"ancestors must be {prompts * particles} rows of the run")
    return result

"""A run folder: pictures, numbers, exact tensors and the page that shows them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as to_safetensors

from fkdiff.files import with_sorted_metadata
from fkdiff.folders import claimed, mark, pictures_of, unmark
from fkdiff.report.beside import beside_png
from fkdiff.report.facts import FORMAT, about_image, about_run, trace_rows
from fkdiff.report.folder import check_folder, clear_pictures, write_file, write_json
from fkdiff.report.page import render
from fkdiff.report.pictures import has_pictures, to_image
from fkdiff.report.png import encode_png
from fkdiff.report.snippet import python_of

if TYPE_CHECKING:
    from torch import Tensor

    from fkdiff.result import Result

__all__ = ["save", "tensors"]


def save(
    result: "Result", folder: str | Path, plain: "Result | None" = None, command: str = ""
) -> Path:
    """Write a run into a folder; an earlier run in it is replaced, and nothing else.

    `images/0000.png ...` (prompts in turn, best first, settings inside), `result.json`,
    `metrics.json` (per transition), `result.safetensors` (every tensor), `beside.png` (with a
    plain run alone) and `report.html`, which needs no other file.

    Arguments:
        result: The run.
        folder: Where to; created if need be.
        plain: The same call unsteered, for comparison.
        command: Command line that made the run, if one did.

    Returns:
        Path of `report.html`.

    Raises:
        OSError: If the folder can't be written to, holds files that are no run of fkdiff, or
            another run is writing into it.
    """
    folder = check_folder(folder)
    about = about_run(result, command, python_of(result, folder))
    with claimed(folder):
        return _written(result, about, folder, plain)


def _written(
    result: "Result", about: dict[str, Any], folder: Path, plain: "Result | None"
) -> Path:
    pictures, before = about["particles"] if has_pictures(result) else [], pictures_of(folder)
    mark(folder, max(len(pictures), before))  # whatever ends this, they are known as ours
    for particle in pictures:
        write_file(folder / particle["file"], _picture(result, about, particle))
    clear_pictures(folder, len(pictures), before)
    mark(folder, len(pictures))
    write_json(folder / "metrics.json", trace_rows(result))
    kept = to_safetensors(tensors(result), _header(about))
    write_file(folder / "result.safetensors", with_sorted_metadata(kept))
    write_json(folder / "result.json", about)
    (folder / "beside.png").unlink(missing_ok=True)
    if plain is not None and has_pictures(plain) and has_pictures(result):
        write_file(folder / "beside.png", beside_png(plain, result))
    page = folder / "report.html"
    write_file(page, render(result, about, plain).encode())
    unmark(folder)
    return page


def tensors(result: "Result") -> "dict[str, Tensor]":
    """Every tensor of a run, contiguous and on the CPU, by name.

    `ancestors` holds the parent row of each row at each transition, identity where nothing moved.
    """
    rows = torch.arange(result.log_w.numel())
    found = {name: getattr(result, name) for name in ("latents", "log_w", "log_twist", "selected")}
    if result.rows:
        found["ancestors"] = torch.stack([rows if r is None else r.cpu() for r in result.rows])
    if result.repair is not None:
        found["repair"] = result.repair
    if result.samples is not None and not has_pictures(result):
        found["samples"] = result.samples  # no file of their own
    found |= {f"rewards.{name}": values for name, values in result.rewards.items()}
    if result.trace:
        found["trace.ess"] = torch.stack([entry.ess for entry in result.trace])
        found["trace.resampled"] = torch.stack([entry.resampled for entry in result.trace])
    spreads = [entry.variance for entry in result.trace if entry.variance is not None]
    if spreads:
        found["trace.variance"] = torch.stack(spreads)
    for entry in result.trace:
        for name, values in entry.rewards.items():
            found[f"trace.{entry.index:04d}.rewards.{name}"] = values
    # Rewards of a name that the trace shares with the end may share memory too.
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def _picture(result: "Result", about: dict[str, Any], particle: dict[str, Any]) -> bytes:
    assert result.samples is not None
    image = to_image(result.samples[particle["prompt"], particle["slot"]])
    return encode_png(image, about_image(about, particle))


def _header(about: dict[str, Any]) -> dict[str, str]:
    return {
        "fkdiff": about["fkdiff"],
        "format": str(FORMAT),
        "prompts": json.dumps(about["prompts"]),
    }

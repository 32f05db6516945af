"""`fkdiff generate --prompts FILE`: a run for each line, each on disk as soon as it is done."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fkdiff.commands.drawing import Loaded, load, save_run
from fkdiff.commands.launched import place
from fkdiff.commands.prompt_file import read_prompts
from fkdiff.commands.request import Request, command_of
from fkdiff.commands.resuming import unfinished
from fkdiff.commands.stops import Stop, failed, refused
from fkdiff.report.folder import check_folder, write_json

__all__ = ["draw_many"]

_LINE = "line.json"


def draw_many(common: Request, file: Path) -> None:
    """Draw every line of a file that isn't drawn yet, and write the index page.

    Under `torchrun` or `accelerate launch` the lines are dealt out over the processes; each writes
    what it finishes, and the last one's index shows all.

    Arguments:
        common: Options of all lines; `out` is the folder of the runs.
        file: The prompts.

    Raises:
        Stop: With code 2 before anything is drawn, 1 if lines failed, 130 if interrupted.
    """
    requests = read_prompts(file, common)
    out = check_folder(common.out or Path("runs") / file.stem)
    rank, world = place()
    folders = [out / _name(i, request) for i, request in enumerate(requests)]
    left = [
        (request, folder)
        for request, folder in list(zip(requests, folders, strict=True))[rank::world]
        if not _done(request, folder)
    ]
    try:
        faults = _draw(left, quiet=rank > 0)
    finally:
        _write_index(out, file, requests, folders)
    if rank == 0:
        print(f"Index: {out / 'index.html'}")
    if faults:
        raise failed(
            f"{len(faults)} of {len(requests)} prompts failed; mend it and give the same command "
            f"again: {faults[0]}"
        )


def _name(index: int, request: Request) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", request.prompts[0].lower()).strip("-")[:40].rstrip("-")
    return f"{index:05d}-{slug}" if slug else f"{index:05d}"


def _done(request: Request, folder: Path) -> bool:
    """Whether the line is drawn, with the same options."""
    if not (folder / _LINE).exists():
        return False
    command = json.loads((folder / _LINE).read_text(encoding="utf-8"))["command"]
    if command != command_of(request):
        raise refused(
            f"--out: {folder} was drawn by another command ({command}); choose another folder"
        )
    return True


def _draw(left: Sequence[tuple[Request, Path]], quiet: bool) -> list[str]:
    """Draw each into its folder, marked once it is whole; returns what failed."""
    from tqdm import tqdm

    faults: list[str] = []
    loaded: Loaded | None = None
    for request, folder in tqdm(left, unit="prompt", disable=quiet):
        loaded = load(request, loaded)
        loaded.pipe.set_progress_bar_config(disable=True)
        try:
            save_run(replace(request, out=folder), loaded, go_on=unfinished(request, folder))
        except Stop as stop:
            if stop.code == 130:
                raise
            faults.append(f"{request.prompts[0]!r}: {stop}")
            continue
        write_json(folder / _LINE, {"command": command_of(request)})
    return faults


def _write_index(
    out: Path, file: Path, requests: Sequence[Request], folders: Sequence[Path]
) -> None:
    from fkdiff.report.index_page import Line, save_index

    lines = []
    for request, folder in zip(requests, folders, strict=True):
        whole, result = (folder / _LINE).exists(), folder / "result.json"
        about = json.loads(result.read_text(encoding="utf-8")) if whole else None
        lines.append(Line(request.prompts[0], folder.name, about))
    if out.exists():
        save_index(out, file.name, lines)

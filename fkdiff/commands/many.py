"""`fkdiff generate --prompts FILE`: a run for each line, each on disk as soon as it is done.

Lines of equal settings are drawn at once, as many as memory allows; each is saved as if it had
been drawn alone. Where that fails for one of them, they are drawn one at a time.
"""

import re
import shutil
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from fkdiff.commands.drawing import Loaded, load, save_apart, save_run
from fkdiff.commands.launched import place
from fkdiff.commands.line_folders import finish_line, is_done, line_folders, result_of
from fkdiff.commands.places import held
from fkdiff.commands.prompt_file import read_prompts
from fkdiff.commands.request import Request
from fkdiff.commands.stops import Stop, failed, refused
from fkdiff.commands.together import Group, Line, Room, groups, kept_groups
from fkdiff.files import home_path
from fkdiff.folders import MARK, is_run, mark, unmark
from fkdiff.report.folder import check_folder

__all__ = ["draw_many"]


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
    out = common.out or Path("runs") / file.stem
    try:
        check_folder(out)
    except OSError as error:
        raise refused(f"--out: {error}") from None
    with held(out):
        _draw_lines(common, file, requests, home_path(out))


def _draw_lines(common: Request, file: Path, requests: Sequence[Request], out: Path) -> None:
    rank, world = place()
    folders = line_folders(out, requests, [_name(i, each) for i, each in enumerate(requests)])
    mine = [Line(*pair) for pair in zip(requests, folders, strict=True)][rank::world]
    left = [line for line in mine if not is_done(line.folder)]
    try:
        faults = _draw(left, out, Room(common.batch, common.memory), quiet=rank > 0)
        _clear(out, folders)
    finally:
        if world == 1 and {path.name for path in out.iterdir()} == {MARK}:
            unmark(out)  # nothing was drawn, and nothing is left behind
        _write_index(out, file, requests, folders)
    if len(faults) == len(requests) and all(fault.code == 2 for fault in faults):
        raise refused(faults[0])
    if rank == 0:
        print(f"Index: {(common.out or Path('runs') / file.stem) / 'index.html'}")
    if faults:
        raise failed(
            f"{len(faults)} of {len(requests)} prompts failed; mend it and give the same command "
            f"again: {faults[0]}"
        )


@dataclass(frozen=True)
class Fault:
    """Why a line wasn't drawn, and the exit code that it would end a command with."""

    prompt: str
    words: str
    code: int

    def __str__(self) -> str:
        return f"{self.prompt!r}: {self.words}"


def _name(index: int, request: Request) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", request.prompts[0].lower()).strip("-")[:40].rstrip("-")
    return f"{index:05d}-{slug}" if slug else f"{index:05d}"


def _draw(left: Sequence[Line], out: Path, room: Room, quiet: bool) -> list[Fault]:
    """Draw each into its folder, marked once it is whole; returns what failed."""
    from tqdm import tqdm

    with tqdm(total=len(left), unit="prompt", disable=quiet) as bar:
        artist = _Artist(out, room, bar.update)
        begun = kept_groups(left, out)
        taken = {line.folder for group in begun for line in group.lines}
        others = [line for line in left if line.folder not in taken]
        for group in chain(begun, groups(others, out, room)):
            artist.draw(group)
    return artist.faults


@dataclass
class _Artist:
    """Draws groups of lines.

    Arguments:
        out: Folder of the runs.
        room: Learns from each.
        count: Told how many lines are over with.
        faults: What failed.
    """

    out: Path
    room: Room
    count: Callable[[int], object]
    faults: list[Fault] = field(default_factory=list)
    _loaded: Loaded | None = None

    def draw(self, group: Group) -> None:
        """Draw lines at once, or in smaller parts where that fails; their states go with that.

        Raises:
            Stop: With code 130 if interrupted, 2 if a line's reward can't be had.
        """
        if len(group.lines) == 1:
            self._alone(group.lines[0], group.go_on)
            return
        try:
            self._at_once(group)
        except Stop as stop:
            if stop.code == 130:
                raise
            if stop.lacks == "disk":  # their states are kept, and each would fail by itself
                self._fail(group.lines, stop)
                return
            self._in_parts(group, stop)
        except Exception as error:
            self._in_parts(group, error)

    def _at_once(self, group: Group) -> None:
        loaded = self._load(group.lines[0].request)
        if not group.go_on:
            _forget(group.states)
        requests = [replace(line.request, out=line.folder) for line in group.lines]
        result = save_apart(requests, loaded, group.states, group.go_on)
        for line in group.lines:
            finish_line(line.folder, line.request)
        _forget(group.states)
        self.room.learn(len(group.lines), result.settings, result.log_w.shape[1])
        self.count(len(group.lines))

    def _in_parts(self, group: Group, error: Exception) -> None:
        """Draw the halves where memory ran out, else each line, so that one can't harm others."""
        lines, lacks = group.lines, getattr(error, "lacks", "")
        size = len(lines) // 2 if lacks == "memory" else 1
        warnings.warn(
            f"{len(lines)} prompts at once failed ({error}); going on with {size} at once",
            stacklevel=2,
        )
        if lacks == "memory" or getattr(error, "code", 1) == 2:
            self.room.fewer(size)
        _forget(group.states)
        for start in range(0, len(lines), size):
            self.draw(replace(group, lines=lines[start : start + size], go_on=False))

    def _alone(self, line: Line, go_on: bool) -> None:
        loaded = self._load(line.request)
        try:
            request = replace(line.request, out=line.folder)
            result, _ = save_run(request, loaded, go_on=go_on)
        except Stop as stop:
            if stop.code == 130:
                raise
            self._fail([line], stop)
            return
        except Exception as error:
            traceback.print_exc()
            self._fail([line], error)
            return
        finish_line(line.folder, line.request)
        self.room.learn(1, result.settings, result.log_w.shape[1])
        self.count(1)

    def _fail(self, lines: Sequence[Line], error: Exception) -> None:
        code = getattr(error, "code", 1)
        self.faults += [Fault(line.request.prompts[0], str(error), code) for line in lines]
        self.count(len(lines))

    def _load(self, request: Request) -> Loaded:
        self._loaded = load(request, self._loaded)
        self._loaded.pipe.set_progress_bar_config(disable=True)
        if not (self.out / MARK).exists():
            mark(self.out)  # now that nothing is left to be refused
        return self._loaded


def _forget(states: Path) -> None:
    """Remove the states of a group, and nothing that isn't a run's."""
    ours = states.is_dir() and not states.is_symlink()
    if ours and (is_run(states) or not any(states.iterdir())):
        shutil.rmtree(states)


def _clear(out: Path, folders: Sequence[Path]) -> None:
    """Remove the states of groups that were drawn since in another way."""
    for states in out.glob("together-*"):
        number = states.name.removeprefix("together-")
        first = [folder for folder in folders if folder.name.split("-")[0] == number]
        if first and all(map(is_done, first)):
            _forget(states)


def _write_index(
    out: Path, file: Path, requests: Sequence[Request], folders: Sequence[Path]
) -> None:
    from fkdiff.report.index_page import Line, save_index

    lines = []
    for request, folder in zip(requests, folders, strict=True):
        about = result_of(folder) if is_done(folder) else None
        lines.append(Line(request.prompts[0], folder.name, about))
    if (out / MARK).exists():
        save_index(out, file.name, lines)

"""`fkdiff generate --resume DIR`: what a run folder's snapshot says was asked for."""

import json
import shlex
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.launched import speaks
from fkdiff.commands.request import UNTOLD, Request, checked
from fkdiff.commands.reward_code import runs_code
from fkdiff.commands.stops import refused
from fkdiff.files import json_of

if TYPE_CHECKING:
    from fkdiff.taps.snapshots import Snapshots

__all__ = ["finished", "note_of", "places", "resumed", "unfinished", "unfinished_together"]

_CHANGED = ("micro_batch", "reward_timeout", "save_every", "group_timeout")
ALLOWED = frozenset({"resume", "reward", "monitor", *_CHANGED})
"""Options that go with `--resume`: rewards are named again, the rest changes no number."""


def places(
    request: Request, folder: Path, go_on: bool, apart: Sequence[Request] = ()
) -> "dict[str, Snapshots]":
    """Where the steered run and the plain one beside it keep their states; none if not asked to.

    Arguments:
        request: The options.
        folder: The run's folder.
        go_on: Whether to go on from what is there.
        apart: The requests that the run draws together, if it isn't saved as one.
    """
    from fkdiff.taps.snapshots import Snapshots

    if not request.save_every:
        return {}
    if speaks() and not go_on and _file(folder).is_file():
        warnings.warn(
            f"{folder} holds an unfinished run, and this one replaces it; to go on with that: "
            f"fkdiff generate --resume {shlex.quote(str(folder))}",
            stacklevel=2,
        )
    note: dict[str, Any] = {"request": note_of(request)}
    if apart:
        note = {"requests": [note_of(each) for each in apart]}
    files = {"steered": "snapshot.safetensors", "plain": "snapshot-plain.safetensors"}
    return {
        arm: Snapshots(folder, request.save_every, name, not go_on, note)
        for arm, name in files.items()
    }


def note_of(request: Request) -> dict[str, Any]:
    """A request for JSON, without its folder, which may move."""
    found = {field.name: getattr(request, field.name) for field in fields(Request)}
    return {**json.loads(json.dumps({**found, "out": None}))}


def unfinished(request: Request, folder: Path) -> bool:
    """Whether the folder holds a snapshot of this very request."""
    from fkdiff.taps.snapshots import SnapshotError

    try:
        return _told(_note(folder)) == _told(note_of(request))
    except (OSError, SnapshotError):
        return False


def unfinished_together(requests: Sequence[Request], folder: Path) -> list[int]:
    """Places of the requests that the folder's snapshot draws together; none if any is missing."""
    from fkdiff.taps.snapshot_file import read_tree
    from fkdiff.taps.snapshots import SnapshotError

    try:
        notes = read_tree(_file(folder))[1].get("note", {}).get("requests", [])
        asked = [_told(note_of(request)) for request in requests]
        return [asked.index(_told(note)) for note in notes]
    except (OSError, SnapshotError, ValueError, TypeError, AttributeError):
        return []


def finished(folder: Path) -> Path | None:
    """The report of a run that has ended and left no snapshot; None if there is none."""
    result, page = folder / "result.json", folder / "report.html"
    if _file(folder).is_file() or not (result.is_file() and page.is_file()):
        return None
    try:
        about = json_of(result.read_bytes())
    except (OSError, ValueError):
        return None
    return page if isinstance(about, dict) and about.get("complete") is True else None


def resumed(folder: Path, given: Mapping[str, Any]) -> Request:
    """The request that a folder's snapshot was made by, checked.

    Arguments:
        folder: The run's folder.
        given: Options on the command line, by name.

    Raises:
        Stop: With code 2, if there is nothing to go on with, or an option can't go with it.
    """
    from fkdiff.taps.snapshots import SnapshotError

    others = sorted(given.keys() - ALLOWED)
    if others:
        told = ", ".join(name if name == "prompt" else _option(name) for name in others)
        raise refused(
            f"--resume takes the options of the run that it goes on with; leave out {told}"
        )
    try:
        request = _request(_note(folder))
    except FileNotFoundError:
        raise refused(
            f"--resume {folder} holds no unfinished run (a run is kept from its first step on); "
            f"give the command itself"
        ) from None
    except (OSError, SnapshotError) as error:
        raise refused(f"--resume: {error}") from None
    except (TypeError, ValueError) as error:
        raise refused(f"--resume {folder} holds no run of this command: {error}") from None
    _check_rewards(folder, request, given)
    if given.get("save_every") == 0:
        raise refused("--save-every must be at least 1 with --resume, got 0")
    changes = {k: given[k] for k in _CHANGED if k in given}
    return checked(replace(request, out=folder, **changes))


def _file(folder: Path) -> Path:
    return folder / "snapshot.safetensors"


def _note(folder: Path) -> dict[str, Any]:
    from fkdiff.taps.snapshot_file import read_tree

    return read_tree(_file(folder))[1].get("note", {}).get("request", {})


def _told(note: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in note.items() if name not in UNTOLD}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _request(note: Mapping[str, Any]) -> Request:
    """A request from its note; whatever isn't one is refused."""
    kinds = typing.get_type_hints(Request)
    unknown = [name for name in note if name not in kinds]
    if unknown or "prompts" not in note:
        raise ValueError(f"it tells {', '.join(unknown) or 'no prompts'}")
    return Request(**{name: _typed(name, kinds[name], value) for name, value in note.items()})


def _typed(name: str, kind: Any, value: Any) -> Any:
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and type(None) in choices:
        return None
    if typing.get_origin(choices[0]) is tuple and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif float in choices and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) in choices:
        return value
    raise TypeError(f"its {name} is {value!r:.40}")


def _check_rewards(folder: Path, request: Request, given: Mapping[str, Any]) -> None:
    """Code that a folder names is run only if the user names it too."""
    kept = {"reward": (request.reward,), "monitor": request.monitor}
    for name, specs in kept.items():
        asked = given.get(name)
        asked = (asked,) if isinstance(asked, str) else tuple(asked or ())
        if name in given and asked != specs:
            own = " and ".join(f"{_option(name)} {shlex.quote(str(spec))}" for spec in specs)
            raise refused(
                f"{_option(name)} must be the run's own with --resume: {own or 'none'}; "
                f"start another run for another reward"
            )
        if name not in given and any(map(runs_code, specs)):
            words = " ".join(f"{_option(name)} {shlex.quote(str(spec))}" for spec in specs)
            raise refused(
                f"--resume runs no code that only the folder names; name it too: "
                f"fkdiff generate --resume {shlex.quote(str(folder))} {words}"
            )

"""Which code a reward's text would run, so that none runs that the user didn't name."""

import hashlib
import importlib.util
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from fkdiff.commands.stops import refused

__all__ = ["check_code", "code_in", "fingerprints", "is_file_place", "runs_code"]


def code_in(text: str | None) -> tuple[str, ...]:
    """Returns the places of code, `file.py:fn` or `module:attr`, that loading a text would run.

    Rewards that installed packages announce count as named by their installation, and so do those
    of them whose argument is a model and a label, as in "classifier:MODEL:LABEL": weights are read
    as numbers, and code that lies in a model's folder is never run. Of a text that can't be read
    to its end, what would have run before that.

    >>> code_in("2 * brightness - mine.py:score"), code_in("classifier:owner/model:cat")
    (('mine.py:score',), ())
    >>> code_in("per-frame:os:system"), code_in("minimum(os:getcwd, 1)"), code_in(None)
    (('per-frame:os:system',), ('os:getcwd',), ())
    """
    places: list[str] = []
    with suppress(ValueError):
        _note(text or "none", places)
    return tuple(dict.fromkeys(places))


def runs_code(text: str | None) -> bool:
    """Whether a reward's text names a file or a module, and not only what is installed.

    >>> runs_code("mine.py:f"), runs_code("2 * brightness"), runs_code(None)
    (True, False, False)
    """
    return bool(code_in(text))


def _note(text: str, places: list[str]) -> None:
    """Adds the places of code to a list in the order in which loading the text comes to them.

    Raises:
        RewardError: If the text can't be read.
    """
    from fkdiff.terms.reward import as_reward, available
    from fkdiff.terms.reward_formulas import read_formula

    text = text.strip()
    if text == "none":
        return
    if os.path.isfile(text) or os.path.isfile(text.rpartition(":")[0]):
        places.append(text)  # as `load_reward` decides
        return
    names = [entry.name for entry in available()]

    def note(leaf: str) -> Any:
        name, _, argument = leaf.partition(":")
        if name not in names or is_file_place(leaf) or _names_code(name, argument):
            places.append(leaf)
        return as_reward(len, name="r")

    read_formula(text, names, note)


def check_code(text: str, named: Collection[str]) -> None:
    """Refuse a reward whose text would run code that isn't among the named places.

    Raises:
        Stop: With code 2.
    """
    places: list[str] = []
    try:
        _note(text, places)
    except ValueError as error:
        raise refused(error) from None
    for place in places:
        if place not in named:
            raise refused(
                f"Reward {place!r} is code, which this page runs only if it was named when the "
                f"page was started: fkdiff app --reward {place}"
            )


def fingerprints(text: str) -> dict[str, str]:
    """SHA-256 of the source file of each place of code in a reward's text; "" where none is."""
    return {place: _fingerprint(place) for place in code_in(text)}


def is_file_place(place: str) -> bool:
    """Whether a place is `file.py:fn`, which is run anew whenever it is loaded.

    >>> is_file_place("mine.py:score"), is_file_place("mine:score")
    (True, False)
    """
    return place.rpartition(":")[0].endswith(".py")


def _names_code(name: str, argument: str) -> bool:
    """Whether a reward's argument may itself name code: "per-frame:os:system" would run it.

    A colon is innocent where the reward's own argument has one, as in "classifier:MODEL:LABEL".
    """
    from fkdiff.terms.reward import available
    from fkdiff.terms.reward_finding import argument_of

    if ":" not in argument:
        return argument.endswith(".py")
    needed = argument_of(next(entry for entry in available() if entry.name == name))
    return needed is None or ":" not in needed[1]


def _fingerprint(place: str) -> str:
    head = place.rpartition(":")[0]
    path = Path(head)
    if not is_file_place(place):
        spec = importlib.util.find_spec(head)
        path = Path(spec.origin) if spec is not None and spec.origin else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

"""Rewards by name: entry points, `module:attr`, `file.py:fn`, and formulas over them.

Packages announce rewards in the entry-point group `fkdiff.rewards`; nothing is imported before it
is asked for, so listing is cheap and a broken plug-in harms nobody else. This module imports
torch only when a reward is loaded.
"""

import difflib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from fkdiff.terms.reward_algebra import Composable

__all__ = ["GROUP", "RewardEntry", "argument_of", "available", "load_reward"]

GROUP = "fkdiff.rewards"


@dataclass(frozen=True)
class RewardEntry:
    """A reward that an installed package announces; nothing of it is imported yet.

    Arguments:
        name: Name by which `load_reward` finds it.
        distribution: Installed package that announces it, such as "fkdiff".
        version: Version of that package.
        value: Where its code is, as "module:attr".
        extras: Extras of the package that it needs, such as ("clip",).

    Example:
        >>> RewardEntry("brightness", "fkdiff", "0.1", "fkdiff.rewards.pixels:Brightness").package
        'fkdiff'
    """

    name: str
    distribution: str
    version: str
    value: str
    extras: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """What to give to pip for it: the distribution with its extras."""
        return self.distribution + (f"[{','.join(self.extras)}]" if self.extras else "")


def available() -> list[RewardEntry]:
    """All rewards that installed packages announce, by name, without importing any of them.

    Returns:
        One entry per name and package; a name that two packages announce appears twice here and
        is refused by `load_reward`.

    Example:
        >>> all(isinstance(entry, RewardEntry) for entry in available())
        True
    """
    entries = [_entry(point) for point in importlib.metadata.entry_points(group=GROUP)]
    return sorted(entries, key=lambda entry: (entry.name, entry.distribution))


def argument_of(entry: RewardEntry) -> tuple[type, str] | None:
    """A class that can't be made without a setting, and what to write for it; imports the class.

    Such a reward is named with its setting, as in "vqa:owner/name". A class may tell what to write
    by an attribute `argument`.

    Raises:
        RewardError: If the code can't be imported.

    Example:
        >>> entry = RewardEntry("per-frame", "fkdiff", "0.1", "fkdiff.rewards.frames:PerFrame")
        >>> argument_of(entry)
        (<class 'fkdiff.rewards.frames.PerFrame'>, 'REWARD')
    """
    point = importlib.metadata.EntryPoint(entry.name, entry.value, GROUP)
    found = _imported(point, entry)
    if not isinstance(found, type):
        return None
    parameters = inspect.signature(found).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return (found, getattr(found, "argument", needed[0].upper())) if needed else None


def load_reward(spec: str) -> "Composable":
    """Finds a reward by name, by place, or by a formula of such.

    * `"brightness"`: a name from `available()`; an entry point is a reward, a class or factory
      that needs no arguments, or a function of the samples;
    * `"openclip:ViT-B-32/openai"`: a name and the one string that its factory takes;
    * `"pkg.mod:attr"`: an attribute of an importable module;
    * `"my_reward.py:fn"`: a function of a file. The file is executed, as the user named it;
    * `"0.5 * emoji-clip - brightness"`, `"minimum(a, b)"`: formulas with `+ - *`, numbers and
      `minimum`. Formulas are parsed, never executed.

    Arguments:
        spec: Name, place or formula.

    Returns:
        The reward.

    Raises:
        RewardError: If it can't be found, is announced twice, or its code fails to import. The
            message is one line that says what to do.

    Example:
        >>> load_reward("2 * fkdiff.rewards.pixels:Brightness")
        2 * Brightness()
    """
    from fkdiff.terms.reward_formulas import read_formula

    spec = spec.strip()
    if os.path.isfile(spec) or os.path.isfile(spec.rpartition(":")[0]):
        return load_one(spec)  # whatever signs its path may hold
    return read_formula(spec, [entry.name for entry in available()], load_one)


def load_one(spec: str) -> "Composable":
    """Loads one reward by name, "name:argument", "module:attr" or "file.py:fn", no formula.

    Example:
        >>> load_one("fkdiff.rewards.pixels:Brightness")
        Brightness()
    """
    head, _, attr = spec.rpartition(":")
    if head.endswith(".py") or spec.endswith(".py"):
        return _made(_from_file(Path(head or spec), attr if head else ""), spec)
    name, _, argument = spec.partition(":")
    points = [p for p in importlib.metadata.entry_points(group=GROUP) if p.name == name]
    if points:
        return _made(_from_entry_point(name, points), spec, argument, short=name)
    if head:
        return _made(_from_module(head, attr), spec)
    raise unknown(name, [entry.name for entry in available()])


def unknown(name: str, known: list[str]) -> ValueError:
    """The error for an unknown name, with the nearest known names.

    Example:
        >>> print(unknown("brightnes", ["brightness", "emoji-clip"]))
        unknown reward 'brightnes'; did you mean brightness?
    """
    from fkdiff.terms.reward import RewardError

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return RewardError(f"unknown reward {name!r}; did you mean {' or '.join(near)}?")
    told = ", ".join(sorted(set(known))) or "none (install fkdiff itself: pip install .)"
    return RewardError(
        f"unknown reward {name!r}; known: {told}; or name code as module:attr or file.py:fn"
    )


def _entry(point: "EntryPoint") -> RewardEntry:
    dist = point.dist
    name, version = (dist.name, dist.version) if dist else ("unknown", "unknown")
    return RewardEntry(point.name, name, version, point.value, tuple(point.extras))


def _from_entry_point(name: str, points: "list[EntryPoint]") -> Any:
    from fkdiff.terms.reward import RewardError

    entries = [_entry(point) for point in points]
    if len(points) > 1:
        told = " and ".join(f"{e.distribution} ({e.value})" for e in entries)
        raise RewardError(
            f"reward {name!r} is announced by {told}; uninstall one, or name one as module:attr"
        )
    return _imported(points[0], entries[0])


def _imported(point: "EntryPoint", entry: RewardEntry) -> Any:
    from fkdiff.terms.reward_function import RewardError, failure

    try:
        return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RewardError(
            f"reward {entry.name!r} of {entry.distribution} can't be imported "
            f"({failure(error)}); try: pip install '{entry.package}'"
        ) from error


def _from_module(module: str, attr: str) -> Any:
    from fkdiff.terms.reward_function import RewardError, failure

    try:
        found: Any = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise RewardError(
            f"module {module!r} of reward '{module}:{attr}' can't be imported "
            f"({failure(error)}); code in a file is named file.py:fn"
        ) from error
    for part in attr.split("."):
        if not hasattr(found, part):
            raise _missing(f"module {module!r}", attr, vars(importlib.import_module(module)))
        found = getattr(found, part)
    return found


def _from_file(path: Path, attr: str) -> Any:
    from fkdiff.terms.reward_function import RewardError, failure

    if not os.path.isfile(path):  # also where the name is too long for one
        raise RewardError(f"reward file '{path}' doesn't exist; check the path")
    name = f"fkdiff_reward_{path.stem}_{crc32(str(path.resolve()).encode()):08x}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        # Compiled here: an import would leave bytecode beside the file, and trust what is there.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except SyntaxError as error:
        del sys.modules[name]
        place = f"{Path(error.filename or path).name}, line {error.lineno}"
        raise RewardError(
            f"reward file '{path}' has a syntax error: {place}: {error.msg}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise RewardError(f"reward file '{path}' failed when run: {failure(error)}") from error
    own = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == name}
    if not attr or not hasattr(module, attr):
        raise _missing(f"file '{path}'", attr, own)
    return getattr(module, attr)


def _missing(place: str, attr: str, namespace: Mapping[str, Any]) -> ValueError:
    from fkdiff.terms.reward import RewardError

    names = [k for k, v in namespace.items() if callable(v) and not k.startswith("_")]
    has = f"it has {', '.join(names)}" if names else "it has no functions"
    asked = f"has no reward {attr!r}" if attr else "needs a function, written file.py:fn"
    return RewardError(f"{place} {asked}; {has}")


def _made(found: Any, spec: str, argument: str = "", short: str | None = None) -> "Composable":
    """A reward from what a name stands for: itself, or what its class or factory makes."""
    from fkdiff.terms.reward import Function, Reward, RewardError, as_reward

    if argument:
        found = _called(found, spec, argument)
    elif isinstance(found, type) or (_is_factory(found) and not isinstance(found, Reward)):
        found = _called(found, spec)
    if not callable(found):
        raise RewardError(f"{spec!r} is {found!r}, not a reward; name a function of the samples")
    if isinstance(found, Reward):
        return as_reward(found)
    named = as_reward(found, name=short)
    # Only a name leads back to a function, so that is how its repr is written.
    return replace(named, source=spec) if isinstance(named, Function) else named


def _is_factory(found: Any) -> bool:
    """Whether `found` is a function that can be called without the samples."""
    if not inspect.isroutine(found):
        return False
    parameters = inspect.signature(found).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in optional for p in parameters)


def _called(maker: Callable[..., Any], spec: str, *arguments: str) -> Any:
    from fkdiff.terms.reward_function import RewardError, failure

    try:
        return maker(*arguments)
    except (RewardError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RewardError(
            f"reward {spec!r} can't be made ({failure(error)}); a factory needs "
            "defaults for all its arguments"
        ) from error

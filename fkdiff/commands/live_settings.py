"""Settings of the page's form, each checked against its bounds before anything is loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkdiff.commands.request import Request
from fkdiff.commands.stops import refused

__all__ = ["BOUNDS", "FIELDS", "Bounds", "request_of"]

FIELDS = (
    "prompt", "model", "reward", "particles", "scale", "steps", "guidance", "seed", "window",
    "plain",
)  # fmt: skip
"""Names of the form's settings, in the order in which the page sends them."""

_LETTERS = {"prompt": 2000, "model": 300, "reward": 500, "window": 40}


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest value of a number, and what to do instead of going beyond.

    Arguments:
        low: Smallest value.
        high: Largest value.
        remedy: What to enter instead.
        whole: Whether it counts something.
        optional: Whether it may be left empty.
    """

    low: float
    high: float
    remedy: str
    whole: bool = True
    optional: bool = False

    def allow(self, value: float) -> bool:
        """Whether a number keeps the rule.

        >>> [Bounds(0, 9, "").allow(value) for value in (9, 2.5, 10, float("nan"))]
        [True, False, False, False]
        """
        return self.low <= value <= self.high and (not self.whole or value == int(value))


_SUITS = "leave it empty for what suits the model"
BOUNDS = {
    "particles": Bounds(1, 32, "8 is a good start; fkdiff generate takes more"),
    "scale": Bounds(0, 20, "4 is a good start", whole=False),
    "steps": Bounds(1, 1000, _SUITS, optional=True),
    "guidance": Bounds(0, 100, _SUITS, whole=False, optional=True),
    "seed": Bounds(0, 2**53 - 1, "leave it empty for 0", optional=True),  # exact in a browser
}


def request_of(
    settings: tuple[Any, ...], out: Path, lists: Mapping[str, Collection[str]]
) -> Request:
    """A request from the form's settings, in the order of `FIELDS`.

    Arguments:
        settings: Whatever came over the network.
        out: Folder of the run.
        lists: Settings that must be chosen from a list, with their lists.

    Raises:
        Stop: With code 2, naming the setting and its rule.
    """
    given: dict[str, Any] = dict(zip(FIELDS, settings, strict=True))
    texts = {name: _text(name, given[name], most) for name, most in _LETTERS.items()}
    for name, choices in lists.items():
        if texts[name] not in choices:
            rule = f"one of this page's list ({', '.join(choices)})"
            raise refused(f"{name.capitalize()} must be {rule}, got {_short(texts[name])}")
    numbers = {name: _number(name, given[name], bounds) for name, bounds in BOUNDS.items()}
    if not isinstance(given["plain"], bool):
        raise refused(f"Plain must be true or false, got {given['plain']!r}")
    known: dict[str, Any] = {
        name: int(value) if BOUNDS[name].whole else value
        for name, value in numbers.items()
        if value is not None
    }
    return Request(
        prompts=(texts["prompt"],),
        model=texts["model"].strip(),
        reward=texts["reward"].strip(),
        window=texts["window"],
        plain=given["plain"],
        out=out,
        **known,
    )


def _text(name: str, value: Any, most: int) -> str:
    """A text of at most so many letters, none of them a null byte."""
    if not isinstance(value, str):
        raise refused(f"{name.capitalize()} must be a text, got {_short(value)}")
    if len(value) > most or "\0" in value:
        rule = f"a text of at most {most} characters without null bytes"
        raise refused(f"{name.capitalize()} must be {rule}, got {len(value)} characters")
    return value


def _number(name: str, value: Any, bounds: Bounds) -> float | None:
    """A number within its bounds, or None where it may be left empty."""
    if value is None and bounds.optional:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and bounds.allow(value):
        return value
    kind = "a whole number" if bounds.whole else "a number"
    rule = f"{kind} in [{bounds.low:g}, {bounds.high:.16g}]"
    raise refused(f"{name.capitalize()} must be {rule}, got {_short(value)}; {bounds.remedy}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

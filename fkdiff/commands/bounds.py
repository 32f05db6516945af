"""What numbers on the command line may be: bounds beyond which nothing sensible can be meant."""

import math
from collections.abc import Mapping
from typing import Any

from fkdiff.commands.stops import refused

__all__ = ["check_bounds", "check_text"]

_COUNTS = {
    "particles": (1, 4096),
    "images": (1, 4096),
    "steps": (1, 10_000),
    "micro_batch": (1, 1_000_000),
    "every": (1, 10_000),
    "seed": (0, 2**63 - 1),
    "batch": (1, 4096),
    "height": (8, 16_384),
    "width": (8, 16_384),
    "save_every": (0, 10_000),
    "n": (1, 100_000),
    "draws": (1, 10_000),
    "episodes": (1, 100_000),
    "replan": (1, 1000),
    "executed": (1, 1000),
    "latency": (0, 1_000_000),
    "layers": (1, 64),
}
_LARGEST = {
    "scale": 1e6,
    "guidance": 1e4,
    "memory": 1e6,
    "reward_timeout": 1e7,
    "group_timeout": 1e7,
    "temperature": 1e3,
}


def check_bounds(asked: Any, counts: Mapping[str, tuple[int, int]] | None = None) -> None:
    """Refuse counts and numbers of a command's options that are out of bounds.

    Arguments:
        asked: The options; None leaves one open.
        counts: The least and the most of options that mean something else than usual.

    Raises:
        Stop: With code 2.
    """
    for name, (least, most) in {**_COUNTS, **(counts or {})}.items():
        value = getattr(asked, name, None)
        if value is not None and not least <= value <= most:
            side = f"least {least}" if value < least else f"most {most}"
            raise refused(f"{_option(name)} must be at {side}, got {_short(value)}")
    for name, most in _LARGEST.items():
        value = getattr(asked, name, None)
        if value is not None and not abs(value) <= most:
            rule = f"between {-most:g} and {most:g}" if math.isfinite(value) else "a finite number"
            raise refused(f"{_option(name)} must be {rule}, got {value:g}")


def check_text(what: str, text: str) -> None:
    """Refuse text that can't be written down as UTF-8.

    Raises:
        Stop: With code 2.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        told = f"{text[error.start]!a} at place {error.start + 1}"
        raise refused(f"{what} must be text that can be written as UTF-8, got {told}") from None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _short(value: int) -> str:
    """A whole number, of a vast one how many digits it has.

    >>> _short(17), _short(10**30)
    ('17', 'a number of 31 digits')
    """
    digits = len(str(abs(value)))
    return str(value) if digits <= 20 else f"a number of {digits} digits"

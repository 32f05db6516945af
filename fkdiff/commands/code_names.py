"""Rewards whose names run code of a file or a module, and not only what is installed for it."""

import re

__all__ = ["code_in", "runs_code"]


def runs_code(spec: str | None) -> bool:
    """Whether a reward's words name a file or a module, and not only what is installed.

    >>> runs_code("mine.py:f"), runs_code("2 * brightness"), runs_code(None)
    (True, False, False)
    """
    return bool(code_in(spec))


def code_in(spec: str | None) -> frozenset[str]:
    """Words of a reward that name a file or a module.

    >>> sorted(code_in("0.5 * mine.py:f - brightness + os:getcwd"))
    ['mine.py:f', 'os:getcwd']
    """
    from fkdiff.terms.reward_finding import available

    known = {entry.name for entry in available()} | {"none"}
    words = re.findall(r"[^\s()+*,]+", spec or "")
    return frozenset(word for word in words if ".py" in word or _heads(word) - known)


def _heads(word: str) -> set[str]:
    """What stands before each colon, to the last sign that a name can't hold."""
    return set(word.split(":")[:-1])

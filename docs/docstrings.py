"""Docstrings of the code as the reference shows them: examples as code, references as lines."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^Example:$", re.MULTILINE)
DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
LINE = re.compile(r"^( *)\| (.*)$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites a docstring once, when its object is found."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)


def shown(text: str) -> str:
    """A docstring in the form that the parser of sections and Markdown take."""
    text = SECTION.sub("Examples:", text)
    text = LINE.sub(r"\1\2  ", text)  # two spaces end a line
    return DOCTEST.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text)

"""Small bundled models, and the recipes that train them.

>>> from fkdiff import zoo
>>> zoo.path("emoji").name
'emoji'
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fkdiff.zoo.words import known_words, unknown_words

__all__ = [
    "MODELS",
    "Model",
    "adapters",
    "card",
    "check_prompt",
    "digest",
    "known_words",
    "open_clip_name",
    "path",
    "prompts",
    "unknown_words",
]

_HERE = Path(__file__).parent
_ADAPTERS = {"emoji-rl": "emoji_rl", "emoji-lcm": "emoji_lcm"}
_FOLDERS = {
    "emoji": "emoji",
    "emoji-clip": "emoji_clip",
    "emoji-judge": "emoji_judge",
    "emoji-vqa": "emoji_vqa",
    "metaworld": "metaworld",
    "peptides": "peptides",
    **_ADAPTERS,
}


@dataclass(frozen=True)
class Model:
    """One bundled model; `kind` says what it is: "pipeline", "adapter", "policy" and so on."""

    name: str
    folder: Path
    kind: str
    megabytes: float
    summary: str


class _Models(Mapping[str, Model]):
    """The models by name; a card is read when its model is asked for, not at import."""

    def __getitem__(self, name: str) -> Model:
        if name not in _FOLDERS:
            raise KeyError(name)
        folder = _HERE / _FOLDERS[name]
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        facts = card(name)
        return Model(name, folder, facts["kind"], round(size / 1e6, 1), facts["summary"])

    def __iter__(self) -> Iterator[str]:
        return (name for name in _FOLDERS if name not in _ADAPTERS or name in adapters())

    def __len__(self) -> int:
        return len(list(iter(self)))


MODELS: Mapping[str, Model] = _Models()
"""The bundled models by name."""


def adapters() -> list[str]:
    """Names of the bundled LoRA adapters; they are trained after the models, and may be absent."""
    return [n for n, folder in _ADAPTERS.items() if (_HERE / folder / "card.json").is_file()]


def path(name: str) -> Path:
    """The folder of a bundled model.

    Arguments:
        name: One of `MODELS`.

    Raises:
        ValueError: If there is none of that name.

    >>> path("emoji-clip").name
    'emoji_clip'
    """
    if name not in _FOLDERS:
        known = ", ".join(_FOLDERS)
        raise ValueError(f"name must be a bundled model, got {name!r}; choose from {known}")
    return _HERE / _FOLDERS[name]


@cache
def _read_card(name: str) -> str:
    return (path(name) / "card.json").read_text(encoding="utf-8")


def card(name: str) -> dict[str, Any]:
    """The card of a bundled model: data, licence, recipe, measured quality, call defaults."""
    return json.loads(_read_card(name))


def digest(name: str) -> str:
    """Twelve letters that change when any of a bundled model's weights does.

    >>> len(digest("emoji-clip"))
    12
    """
    found = hashlib.sha256()
    for file in sorted(path(name).rglob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def open_clip_name(name: str) -> str:
    """What open_clip's `create_model_and_transforms` and `get_tokenizer` call a bundled model."""
    return f"local-dir:{path(name)}"


def prompts(name: str) -> list[str]:
    """The lines of a shipped prompt list.

    Arguments:
        name: "demo" (20), "tune" (150) or "eval" (150).

    Raises:
        ValueError: If there is none of that name.

    >>> len(prompts("demo"))
    20
    """
    known = sorted(file.stem for file in (_HERE / "prompts").glob("*.txt"))
    if name not in known:
        raise ValueError(f"name must be a prompt list, got {name!r}; choose from {known}")
    lines = (_HERE / "prompts" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line]


def check_prompt(text: str, model: str = "emoji") -> None:
    """Refuses a prompt with a word that a bundled model never saw.

    Arguments:
        text: The prompt.
        model: A bundled model; its card lists its words.

    Raises:
        ValueError: Names each unknown word and the known words nearest to it.
    """
    found = unknown_words(text, frozenset(card(model)["words"]))
    if found:
        advice = "; ".join(
            f"{word!r}" + (f" (did you mean {', '.join(near)}?)" if near else " (nothing near)")
            for word, near in found.items()
        )
        raise ValueError(f"prompt must use words that {model} has seen, got {advice}")

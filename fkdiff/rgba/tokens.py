"""Which of a prompt's tokens name its subject, from the tokenizer's own offsets."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["subject_spans", "subject_tokens", "without_background"]

# Tokenizers whose tokens attention sees, in the order of its keys.
_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "StableDiffusion3": ("tokenizer", "tokenizer_3"),
    "Flux": ("tokenizer_2",),
}
_ENCODERS = {"tokenizer_3": "text_encoder_3"}
_SMALL = frozenset(
    "a an the of in on at by to and or with without from for over under above below near next "
    "behind front left right its his her their this that these those is are some very".split()
)
_GENERIC = frozenset(
    "photo photograph picture image illustration drawing painting logo icon art artwork style "
    "render rendering view background scene".split()
)
_GROUND = re.compile(
    r"\b(on|over|against|in front of|with)\s+(an?|the)?\s*([\w-]+\s+){0,3}?background\b", re.I
)


def without_background(prompt: str) -> str:
    """A prompt without what it says of its background.

    >>> without_background("a red guitar on a white background")
    'a red guitar'
    """
    return " ".join(_GROUND.sub(" ", prompt).split()) or prompt


def subject_spans(prompt: str, subject: str | None = None) -> list[tuple[int, int]]:
    """Where a prompt names its subject, first and last character of each word.

    Words without content, words for pictures as such, and what a background is said to be are left
    out; a prompt of nothing else names its subject by all of its words.

    Arguments:
        prompt: The prompt.
        subject: A part of it to take instead.

    Raises:
        ValueError: If the subject isn't in the prompt.

    Example:
        >>> text = "a photo of a red guitar on a white background"
        >>> [text[first:last] for first, last in subject_spans(text)]
        ['red', 'guitar']
        >>> subject_spans("of the", None), subject_spans("?!")
        ([(0, 2), (3, 6)], [])
    """
    if subject is not None:
        start = prompt.lower().find(subject.lower()) if subject.strip() else -1
        if start < 0:
            raise ValueError(
                f"subject must be words of the prompt, got {subject!r} for {prompt!r}"
            )
        return [(start, start + len(subject))]
    words = [(found.start(), found.end()) for found in re.finditer(r"[\w'-]+", prompt)]
    hidden = [found.span() for found in _GROUND.finditer(prompt)]
    named = [
        (first, last)
        for first, last in words
        if prompt[first:last].lower() not in _SMALL | _GENERIC
        and not any(a <= first < b for a, b in hidden)
    ]
    return named or words


def subject_tokens(
    pipe: Any, prompt: str, subject: str | None = None, call: Mapping[str, Any] | None = None
) -> list[int]:
    """Places of the subject's tokens among the keys of text attention; none where unknown.

    What is beyond the text encoder's limit is cut off, as the pipeline does, and has no place.

    Arguments:
        pipe: A pipeline with a tokenizer.
        prompt: The prompt.
        subject: A part of it, None to find the words with content.
        call: The call's arguments, of which `max_sequence_length` matters.

    Raises:
        ValueError: If the subject isn't in the prompt, or in what is cut off of it.
    """
    spans = subject_spans(prompt, subject)
    found: list[int] = []
    start, readable = 0, False
    for name in _layout(pipe):
        tokenizer = getattr(pipe, name, None)
        encoder = _ENCODERS.get(name)
        if tokenizer is None or (encoder and getattr(pipe, encoder, None) is None):
            continue
        limit = _limit(pipe, tokenizer, {} if call is None else call)
        offsets = _offsets(tokenizer, prompt, limit)
        if offsets is not None:
            readable = True
            named = (any(a < last and first < b for first, last in spans) for a, b in offsets)
            found += [start + place for place, meets in enumerate(named) if meets]
        start += limit
    if subject is not None and readable and not found:
        raise ValueError(
            f"subject must be in the part of the prompt that the text encoder reads, {start} "
            f"tokens, got {subject!r} beyond it; shorten {prompt[:40]!r}..."
        )
    return found


def _layout(pipe: Any) -> tuple[str, ...]:
    for base in type(pipe).__mro__:
        for family, names in _LAYOUTS.items():
            if base.__name__.startswith(family):
                return names
    return ("tokenizer",)


def _offsets(tokenizer: Any, prompt: str, limit: int) -> list[tuple[int, int]] | None:
    """Characters of each token, special ones included as (0, 0); None if it doesn't tell."""
    try:
        tokens = tokenizer(prompt, return_offsets_mapping=True, truncation=True, max_length=limit)
        return [(int(first), int(last)) for first, last in tokens["offset_mapping"]]
    except (NotImplementedError, TypeError, KeyError, ValueError):
        return None  # written in Python, or of a kind of its own


def _limit(pipe: Any, tokenizer: Any, call: Mapping[str, Any]) -> int:
    """Tokens that the text encoder is shown."""
    own = min(int(getattr(tokenizer, "model_max_length", 77)), 10**6)
    if "CLIP" in type(tokenizer).__name__:
        return own
    usual = inspect.signature(type(pipe).__call__).parameters.get("max_sequence_length")
    stated = call.get("max_sequence_length")
    stated = usual.default if stated is None and usual is not None else stated
    return stated if isinstance(stated, int) else own

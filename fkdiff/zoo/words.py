"""The words of the bundled scenes: objects, colours, numbers, and how English inflects them."""

import difflib
import re
from functools import cache

__all__ = [
    "BACKGROUNDS",
    "BETWEEN",
    "BINDABLE",
    "COLOURS",
    "NUMBERS",
    "OBJECTS",
    "RELATIONS",
    "SAME",
    "SIZES",
    "known_words",
    "plural",
    "unknown_words",
    "with_article",
]

# Word -> code point of the emoji that shows it; written by hand so that no name table is needed.
OBJECTS: dict[str, str] = {
    "cat": "1f431",
    "dog": "1f436",
    "penguin": "1f427",
    "frog": "1f438",
    "fox": "1f98a",
    "panda": "1f43c",
    "owl": "1f989",
    "bee": "1f41d",
    "butterfly": "1f98b",
    "fish": "1f41f",
    "octopus": "1f419",
    "turtle": "1f422",
    "apple": "1f34e",
    "banana": "1f34c",
    "strawberry": "1f353",
    "lemon": "1f34b",
    "pear": "1f350",
    "carrot": "1f955",
    "mushroom": "1f344",
    "pizza": "1f355",
    "burger": "1f354",
    "donut": "1f369",
    "tree": "1f333",
    "cactus": "1f335",
    "rose": "1f339",
    "sunflower": "1f33b",
    "house": "1f3e0",
    "car": "1f697",
    "bus": "1f68c",
    "rocket": "1f680",
    "boat": "26f5",
    "bicycle": "1f6b2",
    "guitar": "1f3b8",
    "key": "1f511",
    "umbrella": "2602-fe0f",
    "crown": "1f451",
    "heart": "2764-fe0f",
    "balloon": "1f388",
    "robot": "1f916",
    "ghost": "1f47b",
}

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (24, 24, 28),
    "gray": (135, 138, 142),
    "red": (205, 48, 48),
    "orange": (240, 140, 40),
    "yellow": (245, 215, 75),
    "green": (70, 165, 80),
    "blue": (60, 110, 220),
    "purple": (130, 75, 185),
    "pink": (245, 160, 195),
}

# Objects with one dominant saturated colour, so that a hue change reads as "a blue apple".
BINDABLE: tuple[str, ...] = (
    "apple",
    "pear",
    "car",
    "bus",
    "heart",
    "balloon",
    "umbrella",
    "guitar",
    "crown",
    "key",
    "fish",
    "butterfly",
)
COLOURS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple", "pink")
RELATIONS: tuple[str, ...] = ("to the left of", "to the right of", "above", "below")
BETWEEN = "between"
SAME = "of the same colour"
SIZES: tuple[str, ...] = ("small", "big")
NUMBERS: dict[int, str] = {2: "two", 3: "three", 4: "four", 5: "five"}

_IRREGULAR = {"fish": "fish", "cactus": "cacti"}
_GRAMMAR = ("a", "an", "and", "on", "background")


def plural(noun: str) -> str:
    """The plural of one of the nouns.

    >>> [plural(noun) for noun in ("cat", "bus", "butterfly", "fish", "cactus", "key")]
    ['cats', 'buses', 'butterflies', 'fish', 'cacti', 'keys']
    """
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(phrase: str) -> str:
    """The phrase behind its indefinite article.

    >>> with_article("owl"), with_article("blue apple")
    ('an owl', 'a blue apple')
    """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@cache
def known_words() -> frozenset[str]:
    """Every word that captions are made of.

    >>> "penguin" in known_words(), "zebra" in known_words()
    (True, False)
    """
    phrases = " ".join([*RELATIONS, BETWEEN, SAME, *SIZES]).split()
    nouns = [form for noun in OBJECTS for form in (noun, plural(noun))]
    return frozenset([*_GRAMMAR, *phrases, *nouns, *BACKGROUNDS, *COLOURS, *NUMBERS.values()])


def unknown_words(
    text: str, known: frozenset[str] | None = None, nearest: int = 3
) -> dict[str, tuple[str, ...]]:
    """Words of a text that the models never saw, each with the known words nearest in spelling.

    Arguments:
        text: A prompt; letters and digits make words, everything else separates them.
        known: The vocabulary; the scenes' own by default.
        nearest: How many suggestions to give at most.

    >>> unknown_words("a kat on a blue background")
    {'kat': ('cat', 'cats', 'boat')}
    >>> unknown_words("a cat")
    {}
    """
    vocabulary = known_words() if known is None else known
    found: dict[str, tuple[str, ...]] = {}
    for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower()):
        if word not in vocabulary:
            close = difflib.get_close_matches(word, sorted(vocabulary), n=nearest, cutoff=0.5)
            found[word] = tuple(close)
    return found

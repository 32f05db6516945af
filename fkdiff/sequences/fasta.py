"""FASTA files: read with the place of every fault, written with properties in the headers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fkdiff.files import lines_of, text_of
from fkdiff.sequences.alphabet import Alphabet

__all__ = [
    "Entry",
    "FastaError",
    "Record",
    "checked_records",
    "fasta_text",
    "file_text",
    "read_fasta",
]

Entry: TypeAlias = tuple[int, str, list[tuple[int, str]]]
"""Line of a header, the header, and numbered lines of letters below it."""


class FastaError(ValueError):
    """A FASTA file that can't be used, with line and column."""


@dataclass(frozen=True)
class Record:
    """One sequence: name (first word of the header), letters, and class, if the header tells."""

    name: str
    sequence: str
    label: str | None = None


def read_fasta(
    path: str | Path, alphabet: Alphabet, skipped: list[str] | None = None
) -> list[Record]:
    """Records of a FASTA file; `class=NAME` in a header is the record's class.

    Arguments:
        path: Text file in UTF-8; letters may be wrapped over lines.
        alphabet: Allowed letters.
        skipped: Takes what is wrong with each sequence that is left out for that; None refuses
            the file instead.

    Returns:
        At least one record, in the file's order.

    Raises:
        FastaError: If the file is empty, doesn't begin with a header, has a header without a
            sequence, or a letter that isn't of the alphabet: line and column are counted from 1.
        OSError: If it can't be read.

    Example:
        >>> import tempfile; file = Path(tempfile.mkdtemp()) / "a.fasta"
        >>> _ = file.write_text(">one class=tata\\nACG\\nT\\n>two\\nACXT\\n")
        >>> read_fasta(file, Alphabet.named("dna"))
        Traceback (most recent call last):
        fkdiff.sequences.fasta.FastaError: a.fasta, line 5, column 3: 'X' is no letter of ACGT; ...
    """
    path = Path(path)
    entries = _entries(file_text(path), path.name)
    return checked_records(path.name, entries, alphabet, skipped)


def file_text(path: Path) -> str:
    """The text of a file of sequences.

    Raises:
        FastaError: If it is no text in UTF-8.
        OSError: If it can't be read.
    """
    try:
        return text_of(path)
    except ValueError as error:
        raise FastaError(str(error)) from None


def checked_records(
    file: str, entries: Sequence[Entry], alphabet: Alphabet, skipped: list[str] | None
) -> list[Record]:
    """Records of entries: header, line of it, and numbered lines of letters.

    Raises:
        FastaError: If one is wrong and `skipped` is None, or none is left.
    """
    found = []
    for place, (number, header, lines) in enumerate(entries, 1):
        try:
            letters = [_checked(line, alphabet, f"{file}, line {n}") for n, line in lines]
            if not any(letters):
                raise FastaError(f"{file}, line {number}: {header!r} has no sequence below it")
        except FastaError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
        else:
            found.append(Record(_name(header, place), "".join(letters), _label(header)))
    if not found:
        told = f" ({skipped[0]})" if skipped else "; each needs a header '>name' before it"
        raise FastaError(f"{file} holds no sequences{told}")
    return found


def _entries(text: str, file: str) -> list[Entry]:
    found: list[Entry] = []
    for number, line in enumerate(lines_of(text), 1):
        if line.startswith(">"):
            found.append((number, line[1:].strip(), []))
        elif line.strip():
            if not found:
                raise FastaError(f"{file}, line {number}: a header '>name' must come first")
            found[-1][2].append((number, line))
    return found


def _checked(line: str, alphabet: Alphabet, place: str) -> str:
    folded = alphabet.fold(line.rstrip())
    for column, letter in enumerate(folded, 1):
        if letter not in alphabet.letters:
            raise FastaError(
                f"{place}, column {column}: {letter!r} is no letter of {alphabet.letters}; "
                f"remove the sequence or choose another alphabet"
            )
    return folded


def _name(header: str, number: int) -> str:
    return header.split()[0] if header else f"sequence{number}"


def _label(header: str) -> str | None:
    match = re.search(r"(?:^|\s)class=(\S+)", header)
    return match[1] if match else None


def fasta_text(records: Iterable[tuple[str, Mapping[str, object], str]], width: int = 60) -> str:
    """FASTA of (name, properties, sequence); properties become `key=value` in the header.

    >>> print(fasta_text([("d1", {"amp": 0.9312}, "GIGK")]), end="")
    >d1 amp=0.931
    GIGK
    """
    lines = []
    for name, properties, sequence in records:
        told = [f"{k}={_told(v)}" for k, v in properties.items()]
        lines.append(" ".join([f">{name}", *told]))
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "\n".join(lines) + "\n"


def _told(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return re.sub(r"\s+", "_", text)

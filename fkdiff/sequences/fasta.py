"""FASTA files: read with the place of every fault, written with properties in the headers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fkdiff.sequences.alphabet import Alphabet

__all__ = ["FastaError", "Record", "fasta_text", "read_fasta"]


class FastaError(ValueError):
    """A FASTA file that can't be used, with line and column."""


@dataclass(frozen=True)
class Record:
    """One sequence: name (first word of the header), letters, and class, if the header tells."""

    name: str
    sequence: str
    label: str | None = None


def read_fasta(path: str | Path, alphabet: Alphabet) -> list[Record]:
    """Records of a FASTA file; `class=NAME` in a header is the record's class.

    Arguments:
        path: Text file in UTF-8; letters may be wrapped over lines.
        alphabet: Allowed letters.

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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise FastaError(f"{path.name} must be a text file in UTF-8; is it compressed?") from None
    found: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(">"):
            found.append((number, line[1:].strip(), []))
        elif line.strip():
            if not found:
                raise FastaError(f"{path.name}, line {number}: a header '>name' must come first")
            found[-1][2].append(_checked(line, alphabet, f"{path.name}, line {number}"))
    if not found:
        raise FastaError(f"{path.name} holds no sequences; each needs a header '>name' before it")
    for number, header, parts in found:
        if not any(parts):
            raise FastaError(f"{path.name}, line {number}: {header!r} has no sequence below it")
    return [
        Record(_name(header, i), "".join(parts), _label(header))
        for i, (_, header, parts) in enumerate(found, 1)
    ]


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

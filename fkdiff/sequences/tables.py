"""Sequences in a CSV table: a column "sequence", and "name" and "class" if there are."""

import csv
import io
from pathlib import Path

from fkdiff.sequences.alphabet import Alphabet
from fkdiff.sequences.fasta import (
    Entry,
    FastaError,
    Record,
    checked_records,
    file_text,
    read_fasta,
)

__all__ = ["read_sequences"]


def read_sequences(
    path: str | Path, alphabet: Alphabet, skipped: list[str] | None = None
) -> list[Record]:
    """Records of a CSV table, if its name ends in `.csv`, or of a FASTA file.

    Arguments:
        path: Text file in UTF-8. A table has a header with the column `sequence`; `name` and
            `class` may be left out.
        alphabet: Allowed letters.
        skipped: Takes what is wrong with each sequence that is left out for that; None refuses
            the file instead.

    Raises:
        FastaError: If the file can't be used; names its line.
        OSError: If it can't be read.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = file.write_text("name,sequence,class\\na,acg,tata\\n")
        >>> read_sequences(file, Alphabet.named("dna"))
        [Record(name='a', sequence='ACG', label='tata')]
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        return read_fasta(path, alphabet, skipped)
    return checked_records(path.name, _entries(file_text(path), path.name), alphabet, skipped)


def _entries(text: str, file: str) -> list[Entry]:
    """The rows of a table as the entries of a FASTA file."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
    found: list[Entry] = []
    try:
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        if "sequence" not in names:
            raise FastaError(
                f"{file} must have a column 'sequence' in its first line, got "
                f"{', '.join(names[:5]) or 'nothing'}"
            )
        reader.fieldnames = names
        for row in reader:
            if None in row:
                raise FastaError(f"{file}, line {reader.line_num} has more cells than the header")
            label = "_".join(row.get("class", "").split())
            header = "_".join(row.get("name", "").split()) or f"sequence{len(found) + 1}"
            line = (reader.line_num, row["sequence"].strip())
            found.append((line[0], header + (f" class={label}" if label else ""), [line]))
    except csv.Error as error:
        raise FastaError(f"{file}, line {reader.line_num} can't be read: {error}") from None
    return found

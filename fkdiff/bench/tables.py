"""Tables of results: rows turned into fields, means and shares with their standard errors."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["by_field", "means", "share", "standard_error", "summary"]


def by_field(
    rows: Mapping[str, Mapping[str, Any]], fields: Iterable[str] | None = None
) -> dict[str, Any]:
    """Turns a table around: from the fields of each row to the rows of some or all fields.

    >>> by_field({"plain": {"rate": 0.1, "runs": 5}, "fk": {"rate": 0.4, "runs": 3}})
    {'rate': {'plain': 0.1, 'fk': 0.4}, 'runs': {'plain': 5, 'fk': 3}}
    """
    table: dict[str, Any] = {}
    for name, row in rows.items():
        for field in row if fields is None else fields:
            table.setdefault(field, {})[name] = row[field]
    return table


def means(rows: Sequence[Mapping[str, float]], fields: Iterable[str]) -> dict[str, float]:
    """Means of some fields over rows."""
    return {field: statistics.mean(row[field] for row in rows) for field in fields}


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of at least two values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def share(hits: Sequence[bool]) -> dict[str, float]:
    """A share with its standard error."""
    mean = sum(hits) / len(hits)
    return {"mean": mean, "se": math.sqrt(mean * (1 - mean) / len(hits))}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return {"mean": float(x.mean()), "se": float(x.std() / len(x) ** 0.5)}

"""A check of one's own pipeline: do rows stay with their particle, as fkdiff must assume?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.processes.streams import slot_generators
from fkdiff.steering import steer
from fkdiff.taps import PipelineTap
from fkdiff.taps.arguments import expand
from fkdiff.taps.results import fields
from fkdiff.terms.cost import Cost
from fkdiff.terms.step import Step

__all__ = ["Checked", "check_pipeline"]


@dataclass(frozen=True)
class Checked:
    """What held of a pipeline, with the largest relative difference seen in each check."""

    pipeline: str
    differences: Mapping[str, float]

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return f"{self.pipeline}: {told}"


def check_pipeline(
    pipe: Any,
    call: Mapping[str, Any],
    *,
    rows: int = 3,
    seed: int = 0,
    micro_batches: Sequence[int | None] = (None, 1, 2),
    tolerance: float = 1e-5,
) -> Checked:
    """Compare a pipeline's own call with tapped ones; returns the differences found.

    Arguments:
        pipe: The pipeline.
        call: Keyword arguments that draw one sample.
        rows: Particles, at least 2.
        seed: Seed of the row's generators.
        micro_batches: Particles per network call that are tried.
        tolerance: Largest difference allowed, relative to the largest number of the output.

    Raises:
        AssertionError: With what failed.
    """
    given = {"output_type": "pt", **call}
    expanded = expand(pipe, (), given, rows)
    name = type(pipe).__name__
    stock = _numbers(pipe(**expanded.arguments, generator=slot_generators(seed, 1, rows)), rows)
    null = steer(pipe, particles=rows, seed=seed, select="all", stochastic=False)(**given)
    found = {"null run": _difference(_numbers(null, rows), stock)}
    if found["null run"] > tolerance:
        raise AssertionError(
            f"{name}: a run without terms differs from the stock call by {found['null run']:.1e}"
        )
    for size in micro_batches:
        generators = slot_generators(seed, 1, rows)
        engine = _Lineage(rows, generators)
        tap = PipelineTap(
            pipe=pipe,
            expanded=expand(pipe, (), given, rows),
            particles=rows,
            generators=generators,
            engine=engine,  # pyright: ignore[reportArgumentType]
            stochastic=None,
            resamples=False,
            micro_batch=size,
            cost=Cost(),
        )
        output = _numbers(tap(), rows)
        what = f"rows follow, micro_batch={size}"
        expected = {k: v[engine.lineage] for k, v in stock.items()}
        found[what] = _difference(output, expected, stock)
        if found[what] > tolerance:
            raise AssertionError(
                f"{name}: after resampling with micro_batch={size} rows differ from their "
                f"ancestors' by {found[what]:.1e}; something per row didn't follow"
            )
    return Checked(name, found)


class _Lineage:
    """Rotates the rows at each transition and copies the last one into all before the end."""

    def __init__(self, rows: int, generators: Sequence[torch.Generator]) -> None:
        self.seed, self.log_w = 0, torch.zeros(1, rows, dtype=torch.float64)
        self.lineage, self.generators = torch.arange(rows), generators

    def may_resample(self, index: int, total: int) -> bool:
        return True

    def status(self) -> dict[str, str]:
        return {}

    def transition(self, step: Step) -> Tensor | None:
        if step.index >= step.total - 1:
            return None
        rows = torch.arange(len(self.lineage)).roll(-1)
        if step.index == step.total - 2:
            rows = torch.full_like(rows, len(rows) - 1)
        self.lineage = self.lineage[rows]
        states = [self.generators[row].get_state() for row in rows.tolist()]
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return rows


def _numbers(output: Any, rows: int) -> dict[str, Tensor]:
    """Fields of an output with a row for each particle."""
    made = {
        k: torch.as_tensor(np.asarray(v)).double()
        for k, v in fields(output).items()
        if v is not None
    }
    return {k: v for k, v in made.items() if len(v) == rows}


def _difference(
    found: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    like: Mapping[str, Tensor] | None = None,
) -> float:
    like = like or exact
    return max(float((found[k] - exact[k]).abs().max() / like[k].abs().max()) for k in exact)

"""Which guidance, scale and window the FK bench should use: chosen on the prompts `tune` alone."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.bench.fk import chosen_prompts, progress, seed_of
from fkdiff.bench.kept import Kept

if TYPE_CHECKING:
    from fkdiff.bench.fk_runs import Runner, Settings

__all__ = ["run"]

_KINDS = ("pair", "three", "four", "relation", "count", "binding")
_GUIDANCES = (2.0, 3.0, 5.0)
_SCALES = (2.0, 4.0, 8.0)
_WINDOWS = ((0.5, 0.9), (0.7, 0.95))


def run(
    quick: bool, seed: int, resume: Path | None = None, runner: "Runner | None" = None
) -> dict[str, Any]:
    """Plain pass rate by guidance, then FK-4's by scale and window at the best guidance.

    Each rate is of 96 prompts; differences of less than 7 points are noise. What is best here
    belongs into `fkdiff.bench.fk_runs.Settings`, before the prompts `eval` are looked at.

    Arguments:
        quick: 2 prompts, 10 steps and a smaller grid.
        seed: Seed of all random numbers.
        resume: File of finished runs to go on from and to add to.
        runner: Who draws and judges, by default the zoo's models.

    Returns:
        `plain` by guidance, `fk4` by scale and window, and `best`.

    Raises:
        BenchRefused: If weights are missing, or the file holds rows of other settings.
    """
    from fkdiff.bench.fk_runs import Runner, Settings

    runner = runner or Runner.bundled(Settings(steps=10) if quick else Settings())
    usual = runner.settings
    prompts = chosen_prompts(_KINDS, 2 if quick else 96, "tune")
    told = {"seed": seed, "quick": quick, "tuned": "tune", "steps": usual.steps, **runner.models}
    kept = Kept(resume, told)
    guidances = _GUIDANCES[:2] if quick else _GUIDANCES
    plain = {
        f"{g:g}": _rate(kept, runner, replace(usual, guidance=g), prompts, seed, steered=False)
        for g in progress(guidances, "guidance")
    }
    best = float(max(plain, key=plain.__getitem__))
    plain = {g: rate for g, (rate, _) in plain.items()}
    grid = [
        replace(usual, guidance=best, scale=scale, window=window)
        for scale in (_SCALES[:2] if quick else _SCALES)
        for window in (_WINDOWS[:1] if quick else _WINDOWS)
    ]
    rates = [_rate(kept, runner, s, prompts, seed, steered=True) for s in progress(grid, "FK-4")]
    chosen = grid[rates.index(max(rates))]
    told = {_named(s): rate for s, (rate, _) in zip(grid, rates, strict=True)}
    picked = {"guidance": best, "scale": chosen.scale, "window": list(chosen.window)}
    return {"plain": plain, "fk4": told, "best": picked, "prompts": len(prompts)}


def _named(settings: "Settings") -> str:
    first, last = settings.window
    return f"scale {settings.scale:g}, window {first:g} to {last:g}"


def _rate(
    kept: Kept,
    runner: "Runner",
    settings: "Settings",
    prompts: Iterable[str],
    seed: int,
    *,
    steered: bool,
) -> tuple[float, float]:
    """Pass rate and mean calibrated reward of what comes out; the reward breaks ties."""
    runner.settings = settings
    found: list[tuple[bool, float]] = []
    for i, prompt in enumerate(prompts):
        name = f"fk4 {_named(settings)}" if steered else "plain"
        make = runner.chosen if steered else runner.both
        runs = kept.part(
            f"{name}, guidance {settings.guidance:g}, {i}",
            partial(make, prompt, 4 if steered else 2, seed_of(seed, i)),
        )
        for run in runs.values():
            judged = list(zip(run["passed"], run["calibrated"], strict=True))
            found += [judged[run["chosen"]]] if steered else judged
    rates, rewards = zip(*found, strict=True)
    return sum(rates) / len(rates), sum(rewards) / len(rewards)

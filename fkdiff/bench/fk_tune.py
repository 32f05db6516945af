"""Which guidance, scale and window the FK bench should use: chosen on the prompts `tune` alone."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fkdiff.bench.fk import chosen_prompts, seed_of
from fkdiff.bench.fk_runs import Runner, Settings
from fkdiff.bench.kept import Kept

__all__ = ["run"]

_KINDS = ("pair", "three", "four", "relation", "count", "binding")
_GUIDANCES = (2.0, 3.0, 5.0)
_SCALES = (2.0, 4.0, 8.0)
_WINDOWS = ((0.5, 0.9), (0.7, 0.95))


def run(
    quick: bool, seed: int, resume: Path | None = None, runner: Runner | None = None
) -> dict[str, Any]:
    """Plain pass rate by guidance, then FK-4's by scale and window at the best guidance.

    Each rate is of 96 prompts; differences of less than 7 points are noise. What is best here
    belongs into `fkdiff.bench.fk_runs.Settings`, before the prompts `eval` are looked at.

    Arguments as for `run_bench`; `runner` draws and judges, by default with the zoo's models.

    Returns:
        `plain` by guidance, `fk4` by scale and window, and `best`.
    """
    runner = runner or Runner.bundled(Settings(steps=10) if quick else Settings())
    usual = runner.settings
    prompts = chosen_prompts(_KINDS, 2 if quick else 96, "tune")
    settings = {"seed": seed, "quick": quick, "tuned": "tune", "steps": usual.steps}
    kept = Kept(resume, {**settings, **runner.models})
    rate = partial(_rate, kept, runner, prompts, seed)
    guidances = tqdm(_GUIDANCES[: 2 if quick else None], "guidance", unit="prompt")
    plain = {g: rate(replace(usual, guidance=g), False) for g in guidances}
    best = max(plain, key=plain.__getitem__)
    scales, windows = _SCALES[: 2 if quick else None], _WINDOWS[: 1 if quick else None]
    grid = [
        replace(usual, guidance=best, scale=scale, window=window)
        for scale, window in product(scales, windows)
    ]
    steered = {s: rate(s, True) for s in tqdm(grid, "FK-4", unit="prompt")}
    chosen = max(steered, key=steered.__getitem__)
    return {
        "plain": {f"{guidance:g}": passed for guidance, (passed, _) in plain.items()},
        "fk4": {_named(s): passed for s, (passed, _) in steered.items()},
        "best": {"guidance": best, "scale": chosen.scale, "window": list(chosen.window)},
        "prompts": len(prompts),
    }


def _named(settings: Settings) -> str:
    first, last = settings.window
    return f"scale {settings.scale:g}, window {first:g} to {last:g}"


def _rate(
    kept: Kept, runner: Runner, prompts: Sequence[str], seed: int, settings: Settings, fk: bool
) -> tuple[float, float]:
    """Pass rate and mean calibrated reward of what comes out; the reward breaks ties."""
    runner.settings = settings
    found: list[tuple[bool, float]] = []
    name = f"fk4 {_named(settings)}" if fk else "plain"
    for i, prompt in enumerate(prompts):
        make = partial(runner.alone, prompt, 4) if fk else partial(runner.both, prompt, 2)
        runs = kept.part(
            f"{name}, guidance {settings.guidance:g}, {i}", partial(make, seed_of(seed, i))
        )
        for run in runs.values():
            judged = list(zip(run["passed"], run["calibrated"], strict=True))
            found += [judged[run["chosen"]]] if fk else judged
    rates, rewards = zip(*found, strict=True)
    return sum(rates) / len(rates), sum(rewards) / len(rewards)

"""RL guidance over its weight, uncorrected and corrected: reward, pass rate, distance."""

from pathlib import Path
from typing import Any

from fkdiff.bench.emoji_arms import Clouds, adapter, clouds_of, emoji, judge, models, real_pictures
from fkdiff.bench.kept import Kept
from fkdiff.bench.tables import by_field
from fkdiff.terms import Correct, RLGuidance, load_reward

__all__ = ["run"]

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
GUIDANCE = 1.0  # none, as while the adapter was tuned
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """What each weight of `emoji-rl` draws, one picture a prompt; see `run_bench`.

    Returns:
        `reward.wW`, `pass_rate.wW`, `distance.wW` (to real renders, in the judge's features), by
        the stock deterministic steps; the same below `sde`, the stochastic steps that the
        corrector takes, and below `corrected`, with its weights in clouds of 4.
    """
    eyes, pipe = judge(), emoji()
    name, reward = adapter(pipe), load_reward("emoji-clip")
    count, steps = QUICK if quick else (100, 50)
    settings = {"prompts": count, "steps": steps, "guidance": GUIDANCE}
    kept = Kept(resume, {"seed": seed, **settings, **models(name, "emoji-clip")})
    prompts = clouds_of(count)
    reference = eyes.features(real_pictures(prompts, seed))
    clouds = Clouds(pipe, eyes, prompts, seed, kept, reward, reference)
    call = {"num_inference_steps": steps, "guidance_scale": GUIDANCE}
    ways: dict[str, tuple[tuple[Any, ...], int, bool | None]] = {
        "plain": ((), 1, None),
        "sde": ((), 1, True),
        "corrected": ((Correct(),), 4, None),
    }
    found = {}
    for way, (terms, particles, stochastic) in ways.items():
        stepped = {"select": "sample", "stochastic": stochastic}
        rows = {}
        for w in WEIGHTS:
            leaning = (RLGuidance(name, w), *terms)
            rows[f"w{w:g}"] = clouds.measured(f"{way}, w {w:g}", leaning, particles, call, stepped)
        found[way] = by_field(rows, ("reward", "pass_rate", "distance"))
    return {**found.pop("plain"), **found, **settings}

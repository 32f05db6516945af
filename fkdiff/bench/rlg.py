"""RL guidance over its weight, uncorrected and corrected: reward, pass rate, distance."""

from pathlib import Path
from typing import Any

from fkdiff.bench.emoji_arms import (
    Arm,
    Clouds,
    adapter,
    clouds_of,
    distances,
    emoji,
    judge,
    models,
    real_pictures,
    share,
    summary,
)
from fkdiff.bench.kept import Kept
from fkdiff.terms import Correct, RLGuidance, load_reward

__all__ = ["run"]

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
PARTICLES = 4
GUIDANCE = 1.0
"""None, as while the adapter was tuned."""
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """What each weight of `emoji-rl` draws, one picture a prompt.

    Arguments:
        quick: 6 prompts of 6 steps instead of 100 of 50.
        seed: Of the first picture.
        resume: File of finished calls to go on from and to add to.

    Returns:
        `reward.wW`, `pass_rate.wW`, `distance.wW` (to real renders, in the judge's features), by
        the stock deterministic steps; the same below `sde`, the stochastic steps that the
        corrector takes, and below `corrected`, with its weights in clouds of 4.

    Raises:
        FileNotFoundError: If the weights of the judge or of the adapter, or the art, are missing.
        BenchRefused: If the file holds calls of other settings.
    """
    eyes, pipe = judge(), emoji()
    name, reward = adapter(pipe), load_reward("emoji-clip")
    count, steps = QUICK if quick else (100, 50)
    told = {"seed": seed, "prompts": count, "steps": steps, "guidance": GUIDANCE}
    told |= models(name, "emoji-clip")
    clouds = Clouds(pipe, eyes, clouds_of(count), seed, Kept(resume, told))
    reference = eyes.features(real_pictures(clouds.prompts, seed))
    results: dict[str, Any] = {}
    ways: dict[str, tuple[tuple[Any, ...], int, bool | None]] = {
        "plain": ((), 1, None),
        "sde": ((), 1, True),
        "corrected": ((Correct(),), PARTICLES, None),
    }
    for way, (terms, particles, stochastic) in ways.items():
        into = results if way == "plain" else results.setdefault(way, {})
        for w in WEIGHTS:
            call = {"num_inference_steps": steps, "guidance_scale": GUIDANCE}
            settings = {"select": "sample", "stochastic": stochastic}
            arm = Arm((RLGuidance(name, w), *terms), particles, call, settings)
            drawn = clouds.draw(f"{way}, w {w:g}", arm, reward)
            away = distances(drawn.features, reference, seed)
            found = {"reward": summary(drawn.rewards), "pass_rate": share(drawn.passed)}
            for field, value in {**found, "distance": away}.items():
                into.setdefault(field, {})[f"w{w:g}"] = value
    return {**results, "prompts": count, "steps": steps, "guidance": GUIDANCE}

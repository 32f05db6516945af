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
GUIDANCE = 2.0
"""As while the adapter was tuned, and where the base model passes most often."""
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """What each weight of `emoji-rl` draws, one picture a prompt.

    Arguments:
        quick: 6 prompts of 6 steps instead of 100 of 50.
        seed: Of the first picture.
        resume: File of finished calls to go on from and to add to.

    Returns:
        `reward.wW`, `pass_rate.wW`, `distance.wW` (to real renders, in the judge's features) and
        the same below `corrected`, drawn from clouds of 4.

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
    for corrected in (False, True):
        into = results.setdefault("corrected", {}) if corrected else results
        for w in WEIGHTS:
            terms = (RLGuidance(name, w), *([Correct()] if corrected else []))
            call = {"num_inference_steps": steps, "guidance_scale": GUIDANCE}
            arm = Arm(terms, PARTICLES if corrected else 1, call, {"select": "sample"})
            drawn = clouds.draw(f"w {w:g}{', corrected' if corrected else ''}", arm, reward)
            away = distances(drawn.features, reference, seed)
            found = {"reward": summary(drawn.rewards), "pass_rate": share(drawn.passed)}
            for field, value in {**found, "distance": away}.items():
                into.setdefault(field, {})[f"w{w:g}"] = value
    return {**results, "prompts": count, "steps": steps, "guidance": GUIDANCE}

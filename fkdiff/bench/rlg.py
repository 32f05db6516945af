"""RL guidance over its weight, uncorrected and corrected: reward, pass rate, distance."""

from typing import Any

from fkdiff.bench.emoji_arms import (
    Arm,
    adapter,
    clouds_of,
    distances,
    emoji,
    judge,
    real_pictures,
    run_arm,
    share,
    summary,
)
from fkdiff.terms import Correct, RLGuidance, load_reward

__all__ = ["run"]

WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
PARTICLES = 4
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int) -> dict[str, Any]:
    """What each weight of `emoji-rl` draws, one picture a prompt.

    Arguments:
        quick: 6 prompts of 6 steps instead of 100 of 50.
        seed: Of the first picture.

    Returns:
        `reward.wW`, `pass_rate.wW`, `distance.wW` (to real renders, in the judge's features) and
        the same below `corrected`, drawn from clouds of 4.

    Raises:
        FileNotFoundError: If the weights of the judge or of the adapter, or the art, are missing.
    """
    eyes, pipe = judge(), emoji()
    name, reward = adapter(pipe), load_reward("emoji-clip")
    count, steps = QUICK if quick else (100, 50)
    prompts = clouds_of(count)
    reference = eyes.features(real_pictures(prompts, seed))
    results: dict[str, Any] = {}
    for corrected in (False, True):
        into = results.setdefault("corrected", {}) if corrected else results
        for w in WEIGHTS:
            terms = (RLGuidance(name, w), *([Correct()] if corrected else []))
            settings = {"select": "sample"}
            call = {"num_inference_steps": steps}
            arm = Arm(terms, PARTICLES if corrected else 1, call, settings)
            words = f"w {w:g}{', corrected' if corrected else ''}"
            drawn = run_arm(pipe, arm, prompts, seed, words, reward)
            passed = share(eyes.passes(drawn.pictures, prompts))
            away = distances(eyes.features(drawn.pictures), reference, seed)
            found = {"reward": summary(drawn.rewards), "pass_rate": passed, "distance": away}
            for field, value in found.items():
                into.setdefault(field, {})[f"w{w:g}"] = value
    return {**results, "prompts": count, "steps": steps}

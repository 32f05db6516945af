"""Plain guidance against corrected guidance, judged by pictures of the real scenes."""

from typing import Any

from fkdiff.bench.emoji_arms import (
    Arm,
    clouds_of,
    distances,
    emoji,
    judge,
    real_pictures,
    run_arm,
    share,
    summary,
)
from fkdiff.terms import Correct

__all__ = ["run"]

SCALES = (1.5, 3.0, 6.0)
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Distance to real renders in the judge's features, and pass rates.

    One draw per cloud, equal numbers of pictures in all arms; the reference is as many renders of
    the same captions. All arms take the same steps.

    Arguments:
        quick: 6 clouds of 6 steps instead of 128 of 50.
        seed: Of the first cloud.

    Returns:
        `distance.{plain,fk4,fk16}.G` (kernel distance `mean`, `se`, and `frechet`),
        `pass_rate.{plain,fk4,fk16}.G`, `logw_var.G` (variance of the corrector's increments with
        4 particles, summed over a run).

    Raises:
        FileNotFoundError: If the judge's weights, or the art of the real pictures, are missing.
    """
    eyes = judge()
    clouds, steps = QUICK if quick else (128, 50)
    prompts = clouds_of(clouds)
    reference, pipe = eyes.features(real_pictures(prompts, seed)), emoji()
    arms = {"plain": ((), 1), "fk4": ((Correct(),), 4), "fk16": ((Correct(),), 16)}
    results: dict[str, Any] = {"distance": {}, "pass_rate": {}, "logw_var": {}}
    for scale in SCALES:
        key = f"{scale:g}"
        for name, (terms, particles) in arms.items():
            call = {"guidance_scale": scale, "num_inference_steps": steps}
            arm = Arm(terms, particles, call, {"select": "sample"})
            drawn = run_arm(pipe, arm, prompts, seed, f"{name}, guidance {key}")
            found = distances(eyes.features(drawn.pictures), reference, seed)
            results["distance"].setdefault(name, {})[key] = found
            passed = share(eyes.passes(drawn.pictures, prompts))
            results["pass_rate"].setdefault(name, {})[key] = passed
            if name == "fk4":
                results["logw_var"][key] = summary(drawn.variances)
    return {**results, "clouds": clouds, "steps": steps}

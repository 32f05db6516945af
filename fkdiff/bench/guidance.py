"""Plain guidance against corrected guidance, judged by pictures of the real scenes."""

from pathlib import Path
from typing import Any

from fkdiff.bench.emoji_arms import (
    Arm,
    Clouds,
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
from fkdiff.terms import Correct

__all__ = ["run"]

SCALES = (1.5, 3.0, 6.0)
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Distance to real renders in the judge's features, and pass rates.

    One draw per cloud, equal numbers of pictures in all arms; the reference is as many renders of
    the same captions. All arms take the same steps: `plain` the stock deterministic ones, `sde`
    the stochastic ones that the corrected arms take, without weights.

    Arguments:
        quick: 6 clouds of 6 steps instead of 128 of 50.
        seed: Of the first cloud.
        resume: File of finished calls to go on from and to add to.

    Returns:
        `distance.{plain,sde,fk4,fk16}.G` (kernel distance `mean`, `se`, and `frechet`),
        `pass_rate.{plain,sde,fk4,fk16}.G`, `logw_var.G` (variance of the corrector's increments
        with 4 particles, summed over a run).

    Raises:
        FileNotFoundError: If the judge's weights, or the art of the real pictures, are missing.
        BenchRefused: If the file holds calls of other settings.
    """
    eyes = judge()
    count, steps = QUICK if quick else (128, 50)
    kept = Kept(resume, {"seed": seed, "clouds": count, "steps": steps, **models()})
    clouds = Clouds(emoji(), eyes, clouds_of(count), seed, kept)
    reference = eyes.features(real_pictures(clouds.prompts, seed))
    arms: dict[str, tuple[tuple[Any, ...], int, bool | None]] = {
        "plain": ((), 1, None),
        "sde": ((), 1, True),
        "fk4": ((Correct(),), 4, None),
        "fk16": ((Correct(),), 16, None),
    }
    results: dict[str, Any] = {"distance": {}, "pass_rate": {}, "logw_var": {}}
    for scale in SCALES:
        key = f"{scale:g}"
        for name, (terms, particles, stochastic) in arms.items():
            call = {"guidance_scale": scale, "num_inference_steps": steps}
            arm = Arm(terms, particles, call, {"select": "sample", "stochastic": stochastic})
            drawn = clouds.draw(f"{name}, guidance {key}", arm)
            found = distances(drawn.features, reference, seed)
            results["distance"].setdefault(name, {})[key] = found
            results["pass_rate"].setdefault(name, {})[key] = share(drawn.passed)
            if name == "fk4":
                results["logw_var"][key] = summary(drawn.variances)
    return {**results, "clouds": count, "steps": steps}

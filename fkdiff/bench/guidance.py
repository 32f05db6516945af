"""Plain guidance against corrected guidance, judged by pictures of the real scenes."""

from pathlib import Path
from typing import Any

from fkdiff.bench.emoji_arms import Clouds, clouds_of, emoji, judge, models, real_pictures
from fkdiff.bench.kept import Kept
from fkdiff.bench.tables import by_field
from fkdiff.terms import Correct

__all__ = ["run"]

SCALES = (1.5, 3.0, 6.0)
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Distance to real renders in the judge's features, and pass rates; see `run_bench`.

    One draw per cloud, equal numbers of pictures in all arms; the reference is as many renders of
    the same captions. All arms take the same steps: `plain` the stock deterministic ones, `sde`
    the stochastic ones that the corrected arms take, without weights.

    Returns:
        `distance.{plain,sde,fk4,fk16}.G` (kernel distance `mean`, `se`, and `frechet`),
        `pass_rate.{plain,sde,fk4,fk16}.G`, `logw_var.G` (variance of the corrector's increments
        with 4 particles, summed over a run).
    """
    eyes = judge()
    count, steps = QUICK if quick else (128, 50)
    kept = Kept(resume, {"seed": seed, "clouds": count, "steps": steps, **models()})
    prompts = clouds_of(count)
    reference = eyes.features(real_pictures(prompts, seed))
    clouds = Clouds(emoji(), eyes, prompts, seed, kept, reference=reference)
    arms: dict[str, tuple[tuple[Any, ...], int, bool | None]] = {
        "plain": ((), 1, None),
        "sde": ((), 1, True),
        "fk4": ((Correct(),), 4, None),
        "fk16": ((Correct(),), 16, None),
    }
    found: dict[str, dict[str, Any]] = {name: {} for name in arms}
    for scale in SCALES:
        call = {"guidance_scale": scale, "num_inference_steps": steps}
        for name, (terms, particles, stochastic) in arms.items():
            settings = {"select": "sample", "stochastic": stochastic}
            arm = f"{name}, guidance {scale:g}"
            found[name][f"{scale:g}"] = clouds.measured(arm, terms, particles, call, settings)
    table = by_field({name: by_field(rows) for name, rows in found.items()})
    results = {"distance": table["distance"], "pass_rate": table["pass_rate"]}
    return {**results, "logw_var": table["logw_var"]["fk4"], "clouds": count, "steps": steps}

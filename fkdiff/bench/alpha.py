"""Alpha by each method on composites with known alpha, and the colour of soft edges."""

import importlib.util
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from fkdiff.bench.emoji_arms import fetched_art
from fkdiff.bench.latency import one_thread
from fkdiff.bench.tables import by_field, summary
from fkdiff.rgba import alpha, foreground_colour
from fkdiff.rgba.ground import blurred
from fkdiff.zoo.composites import GROUNDS, Composite, composites, load_unseen

__all__ = ["colour_errors", "iou", "rough_prior", "run"]

METHODS = {"default": None, "grabcut": "cv2", "alfie": "cv2"}
METHODS |= {"closed-form": "pymatting", "knn": "pymatting"}  # and the package that each needs
COUNT, QUICK = 200, 12
ARMS = ("with", "without", "end_to_end")


def run(quick: bool, seed: int) -> dict[str, Any]:
    """What each installed method makes of the same pictures and priors; see `run_bench`.

    Returns:
        `sad.METHOD.GROUND` (sum of absolute errors, pixels), `iou.METHOD.GROUND` (at alpha 0.5),
        `seconds.METHOD.GROUND`, and the error of colours at soft pixels, alpha times the absolute
        error, in [0, 1]: `colour_error.GROUND.{with,without}` (estimated, and as the picture has
        it) for the true alpha, as benchmarks of foreground estimation take it, and `end_to_end`
        for the default method's own.
    """
    art, count = load_unseen(fetched_art()), QUICK if quick else COUNT
    installed = [m for m, needs in METHODS.items() if not needs or importlib.util.find_spec(needs)]
    rows: dict[str, dict[str, Any]] = {method: {} for method in installed}
    with one_thread():
        for kind in GROUNDS:
            cases = composites(art, kind, count, seed)
            rng = np.random.default_rng([seed, GROUNDS.index(kind), 1])
            priors = [rough_prior(case.alpha, rng) for case in cases]
            for method in installed:
                rows[method][kind] = _measured(method, kind, cases, priors)
    table = by_field({method: by_field(kinds) for method, kinds in rows.items()})
    colours = table["colour_error"]["default"]
    means = {arm: statistics.fmean(c[arm]["mean"] for c in colours.values()) for arm in ARMS}
    found = {field: table[field] for field in ("sad", "iou", "seconds")}
    sizes = {"composites": count, "unseen_emoji": len(art)}
    return {**found, "colour_error": colours | means, **sizes}


def rough_prior(truth: Any, rng: np.random.Generator, noise: float = 0.1) -> Tensor:
    """The true alpha at 8x8, blurred by 0.7 of a cell and noised, (8, 8) in [0, 1]."""
    cells = F.adaptive_avg_pool2d(torch.from_numpy(truth)[None], 8)
    drawn = torch.from_numpy(rng.normal(0, noise, (8, 8)).astype(np.float32))
    return (blurred(cells, 0.7)[0] + drawn).clamp(0, 1)


def iou(found: Tensor, truth: Tensor) -> float:
    """Intersection over union where alpha is at least a half."""
    one, two = found >= 0.5, truth >= 0.5
    return float((one & two).sum() / (one | two).sum().clamp(min=1))


def colour_errors(case: Composite, share: Tensor) -> tuple[float, ...]:
    """Errors of the colour at soft pixels, weighted by alpha, by `ARMS`; share is (h, w)."""
    image, colour = (torch.from_numpy(x).permute(2, 0, 1) for x in (case.image, case.colour))
    truth = torch.from_numpy(case.alpha)
    soft = (truth > 0.05) & (truth < 0.95)
    found = (foreground_colour(image, truth), image, foreground_colour(image, share))
    return tuple(float((truth * (x - colour).abs().mean(0))[soft].mean()) for x in found)


def _measured(
    method: str, kind: str, cases: Sequence[Composite], priors: Sequence[Tensor]
) -> dict[str, Any]:
    rows: list[dict[str, float]] = []
    bar = tqdm(list(zip(cases, priors, strict=True)), f"{method}, {kind}", mininterval=5)
    for case, prior in bar:
        image, truth = torch.from_numpy(case.image).permute(2, 0, 1), torch.from_numpy(case.alpha)
        start = time.perf_counter()
        share = alpha(image, prior, method)
        row = {"seconds": time.perf_counter() - start, "iou": iou(share, truth)}
        row["sad"] = float((share - truth).abs().sum())
        if method == "default":
            row |= zip(ARMS, colour_errors(case, share), strict=True)
        rows.append(row)
    found = {field: summary([row[field] for row in rows]) for field in rows[0]}
    seconds = statistics.fmean(row["seconds"] for row in rows)
    colours = {arm: found.pop(arm) for arm in ARMS if arm in found}
    return {**found, "seconds": seconds, "colour_error": colours}

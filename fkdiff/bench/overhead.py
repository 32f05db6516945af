"""What steering adds to a stock call: the same network, batch and scheduler in every arm."""

import statistics
from typing import Any

from fkdiff.bench import added_time
from fkdiff.bench.emoji_arms import stock_emoji

__all__ = ["run"]


def run(quick: bool, seed: int) -> dict[str, Any]:
    """Time the stock call, a pass-through run and FK steering, in interleaved triples.

    The arms share `emoji`, 8 particles, 30 steps and DDIM with eta 1; the reward reads latents
    and costs nothing, so what is left is the machinery: taps, weights, resampling.

    Arguments as for `run_bench`.

    Returns:
        `fk_ratio` and `passthrough_ratio` (medians of the triples' ratios to the stock call), the
        median seconds of each arm, and with networks that cost next to nothing `tap_ms`
        (milliseconds that a tap adds to a step of 8 particles), `keep_growth` (time of a save at
        400 steps over that at 50) and `sample_ratio.K` (`sample` over a plain loop).
    """
    repeats, pipe = 5 if quick else 15, added_time.narrow_pipe()
    calls = added_time.arms(stock_emoji(), seed, prompt="a cat on a blue background")
    columns = zip(*added_time.in_turn(list(calls.values()), repeats), strict=True)
    seconds = dict(zip(calls, map(statistics.median, columns), strict=True))
    return {
        "fk_ratio": seconds["fk"] / seconds["stock"],
        "passthrough_ratio": seconds["passthrough"] / seconds["stock"],
        "tap_ms": added_time.tap_ms(pipe, seed, repeats),
        "keep_growth": added_time.keep_growth(pipe, seed),
        "sample_ratio": {
            f"K{k}": added_time.sample_ratio(k, seed, repeats) for k in (1000, 100_000)
        },
        "seconds": seconds,
        "particles": added_time.PARTICLES,
        "steps": added_time.STEPS,
        "triples": repeats,
    }

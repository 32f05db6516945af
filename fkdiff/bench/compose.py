"""Tuning, RL guidance and steering on one reward, alone and together, at equal evaluations."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fkdiff import Resample, RLGuidance, Tilt
from fkdiff.bench.emoji_arms import Clouds, adapter, clouds_of, emoji, judge, models
from fkdiff.bench.fk_runs import Settings
from fkdiff.bench.kept import Kept
from fkdiff.bench.tables import by_field
from fkdiff.terms import load_reward

__all__ = ["run"]

W = 1.6
# As in the bench `fk`, chosen on other prompts; no guidance, as while the adapter was tuned.
SETTINGS = Settings(guidance=1.0)
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Pass rates by the independent judge, evaluations and seconds; see `run_bench`.

    One picture a prompt. base_fk4 and rl_bon4 make equally many evaluations, and so do base_bon8
    and rl_rlg_fk4.

    Returns:
        `pass_rate`, `reward`, `nfe` (evaluations a picture) and `seconds` of `base`, `base_fk4`,
        `base_bon8`, `rl`, `rl_rlg`, `rl_bon4` and `rl_rlg_fk4`.
    """
    eyes, pipe = judge(), emoji()
    name, reward = adapter(pipe), load_reward("emoji-clip")
    count, steps = QUICK if quick else (150, SETTINGS.steps)
    settings = {"prompts": count, **asdict(SETTINGS), "steps": steps, "w": W}
    kept = Kept(resume, {"seed": seed, **settings, **models(name, "emoji-clip")})
    clouds = Clouds(pipe, eyes, clouds_of(count), seed, kept, reward)
    call = {"num_inference_steps": steps, "guidance_scale": SETTINGS.guidance}
    moving, window = {**call, "eta": 1.0}, {"resample": Resample(window=SETTINGS.window)}
    best, none = Tilt(reward, SETTINGS.scale, "none"), {"resample": None, "stochastic": False}
    steered = Tilt(reward, SETTINGS.scale)
    tuned, beyond = RLGuidance(name, 1.0), RLGuidance(name, W)
    arms = {
        "base": ((), 1, call, {}),
        "base_fk4": ((steered,), 4, moving, window),
        "base_bon8": ((best,), 8, call, none),
        "rl": ((tuned,), 1, call, {}),
        "rl_rlg": ((beyond,), 1, call, {}),
        "rl_bon4": ((tuned, best), 4, call, none),
        "rl_rlg_fk4": ((beyond, steered), 4, moving, window),
    }
    rows = {name: clouds.measured(name, *arm) for name, arm in arms.items()}
    return {**by_field(rows, ("pass_rate", "reward", "nfe", "seconds")), **settings}

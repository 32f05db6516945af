"""Tuning, RL guidance and steering on one reward, alone and together, at equal evaluations."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fkdiff.bench.emoji_arms import (
    Arm,
    Clouds,
    adapter,
    clouds_of,
    emoji,
    judge,
    models,
    share,
    summary,
)
from fkdiff.bench.fk_runs import Settings
from fkdiff.bench.kept import Kept
from fkdiff.smc import Resample
from fkdiff.terms import RLGuidance, Tilt, load_reward

__all__ = ["run"]

W = 1.6
SETTINGS = Settings(guidance=1.0)
"""Steps, scale and window as in the bench `fk`, chosen on other prompts; no guidance, as while
the adapter was tuned."""
QUICK = (6, 6)  # pictures an arm, and steps


def run(quick: bool, seed: int, resume: Path | None = None) -> dict[str, Any]:
    """Pass rates by the independent judge, evaluations and seconds, one picture a prompt.

    base_fk4 and rl_bon4 make equally many evaluations, and so do base_bon8 and rl_rlg_fk4.

    Arguments:
        quick: 6 prompts of 6 steps instead of the 150 of the evaluation list of 20.
        seed: Of the first picture.
        resume: File of finished calls to go on from and to add to.

    Returns:
        `pass_rate`, `reward`, `nfe` (evaluations a picture) and `seconds` of `base`, `base_fk4`,
        `base_bon8`, `rl`, `rl_rlg`, `rl_bon4` and `rl_rlg_fk4`.

    Raises:
        FileNotFoundError: If the weights of the judge or of the adapter are missing.
        BenchRefused: If the file holds calls of other settings.
    """
    eyes, pipe = judge(), emoji()
    name, reward = adapter(pipe), load_reward("emoji-clip")
    count, steps = QUICK if quick else (150, SETTINGS.steps)
    told = {"seed": seed, "prompts": count, **asdict(SETTINGS), "steps": steps, "w": W}
    told |= models(name, "emoji-clip")
    clouds = Clouds(pipe, eyes, clouds_of(count), seed, Kept(resume, told))
    call = {"num_inference_steps": steps, "guidance_scale": SETTINGS.guidance}
    tuned, leaning = RLGuidance(name, 1.0), RLGuidance(name, W)
    steered, moving = Tilt(reward, SETTINGS.scale), {**call, "eta": 1.0}
    window = {"resample": Resample(window=SETTINGS.window)}
    best, none = Tilt(reward, SETTINGS.scale, "none"), {"resample": None, "stochastic": False}
    arms = {
        "base": Arm((), 1, call),
        "base_fk4": Arm((steered,), 4, moving, window),
        "base_bon8": Arm((best,), 8, call, none),
        "rl": Arm((tuned,), 1, call),
        "rl_rlg": Arm((leaning,), 1, call),
        "rl_bon4": Arm((tuned, best), 4, call, none),
        "rl_rlg_fk4": Arm((leaning, steered), 4, moving, window),
    }
    results: dict[str, Any] = {key: {} for key in ("pass_rate", "reward", "nfe", "seconds")}
    for arm_name, arm in arms.items():
        watched = None if any(isinstance(term, Tilt) for term in arm.terms) else reward
        drawn = clouds.draw(arm_name, arm, watched, reward.name)
        results["pass_rate"][arm_name] = share(drawn.passed)
        results["reward"][arm_name] = summary(drawn.rewards)
        results["nfe"][arm_name] = drawn.evaluations / count
        results["seconds"][arm_name] = drawn.seconds / count
    return {**results, "prompts": count, **asdict(SETTINGS), "steps": steps, "w": W}

"""Warm starts for diffusion policies: act at control rate, with an explained number of steps."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.policy.actions import DiscreteActions
    from fkdiff.policy.calibration import Calibration, Recording, calibrate
    from fkdiff.policy.contraction import contraction_factor
    from fkdiff.policy.lerobot import WarmStartedPolicy
    from fkdiff.policy.levels import Levels, Plan
    from fkdiff.policy.network import ChunkDenoiser
    from fkdiff.policy.particles import SteeredPolicy
    from fkdiff.policy.pipeline import WarmStartPolicyPipeline
    from fkdiff.policy.sampler import ChunkSampler, Decision
    from fkdiff.policy.trajectory_rewards import goal_distance, obstacle_distance, smoothness
    from fkdiff.policy.warm_start import WarmStart, shifted

__all__ = [
    "Calibration",
    "ChunkDenoiser",
    "ChunkSampler",
    "Decision",
    "DiscreteActions",
    "Levels",
    "Plan",
    "Recording",
    "SteeredPolicy",
    "WarmStart",
    "WarmStartPolicyPipeline",
    "WarmStartedPolicy",
    "calibrate",
    "contraction_factor",
    "goal_distance",
    "obstacle_distance",
    "shifted",
    "smoothness",
]

_NAMES = {
    "actions": "DiscreteActions",
    "calibration": "Calibration Recording calibrate",
    "contraction": "contraction_factor",
    "lerobot": "WarmStartedPolicy",
    "levels": "Levels Plan",
    "network": "ChunkDenoiser",
    "particles": "SteeredPolicy",
    "pipeline": "WarmStartPolicyPipeline",
    "sampler": "ChunkSampler Decision",
    "trajectory_rewards": "goal_distance obstacle_distance smoothness",
    "warm_start": "WarmStart shifted",
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names.split():
            return getattr(import_module(f"fkdiff.policy.{module}"), name)
    raise AttributeError(f"module 'fkdiff.policy' has no attribute {name!r}")

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

_HOMES = {
    "Calibration": "calibration",
    "ChunkDenoiser": "network",
    "ChunkSampler": "sampler",
    "Decision": "sampler",
    "DiscreteActions": "actions",
    "Levels": "levels",
    "Plan": "levels",
    "Recording": "calibration",
    "SteeredPolicy": "particles",
    "WarmStart": "warm_start",
    "WarmStartPolicyPipeline": "pipeline",
    "WarmStartedPolicy": "lerobot",
    "calibrate": "calibration",
    "contraction_factor": "contraction",
    "goal_distance": "trajectory_rewards",
    "obstacle_distance": "trajectory_rewards",
    "shifted": "warm_start",
    "smoothness": "trajectory_rewards",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fkdiff.policy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fkdiff.policy' has no attribute {name!r}")

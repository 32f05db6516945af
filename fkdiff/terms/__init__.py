"""Terms: what a user wishes the samples to be. One method, one file.

Names are loaded when they are first used: listing rewards imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.terms.correctors import Correct
    from fkdiff.terms.cost import Cost
    from fkdiff.terms.discrete_correctors import DiscreteCorrect
    from fkdiff.terms.fk_steering import Tilt
    from fkdiff.terms.products import Anneal, Product
    from fkdiff.terms.repair import RepairWarning
    from fkdiff.terms.reward import Reward, RewardError, as_reward, load_reward, minimum
    from fkdiff.terms.rl_guidance import RLGuidance
    from fkdiff.terms.step import Expert, Step
    from fkdiff.terms.term import State, Term

__all__ = [
    "Anneal",
    "Correct",
    "Cost",
    "DiscreteCorrect",
    "Expert",
    "Product",
    "RLGuidance",
    "RepairWarning",
    "Reward",
    "RewardError",
    "State",
    "Step",
    "Term",
    "Tilt",
    "as_reward",
    "load_reward",
    "minimum",
]

_HOMES = {
    "Anneal": "products",
    "Correct": "correctors",
    "Cost": "cost",
    "DiscreteCorrect": "discrete_correctors",
    "Expert": "step",
    "Product": "products",
    "RLGuidance": "rl_guidance",
    "RepairWarning": "repair",
    "Reward": "reward",
    "RewardError": "reward",
    "State": "term",
    "Step": "step",
    "Term": "term",
    "Tilt": "fk_steering",
    "as_reward": "reward",
    "load_reward": "reward_finding",
    "minimum": "reward",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fkdiff.terms.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fkdiff.terms' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

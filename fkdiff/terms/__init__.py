"""Terms: what a user wishes the samples to be. One method, one file."""

from fkdiff.terms.fk_steering import Tilt
from fkdiff.terms.reward import Reward, RewardError, as_reward, load_reward, minimum
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term

__all__ = [
    "Expert",
    "Reward",
    "RewardError",
    "Step",
    "Term",
    "Tilt",
    "as_reward",
    "load_reward",
    "minimum",
]

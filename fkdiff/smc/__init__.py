"""Sequential Monte Carlo in pure torch: a weighted cloud, resampling schemes, triggers."""

from fkdiff.smc.cloud import Cloud, Rows, WeightsError
from fkdiff.smc.draws import Generators
from fkdiff.smc.resampling import (
    SCHEMES,
    ancestors,
    beam,
    birth_death,
    multinomial,
    residual,
    ssp,
    stratified,
    systematic,
)
from fkdiff.smc.triggers import Resample
from fkdiff.smc.weights import bisect_scale, conditional_ess, ess

__all__ = [
    "SCHEMES",
    "Cloud",
    "Generators",
    "Resample",
    "Rows",
    "WeightsError",
    "ancestors",
    "beam",
    "birth_death",
    "bisect_scale",
    "conditional_ess",
    "ess",
    "multinomial",
    "residual",
    "ssp",
    "stratified",
    "systematic",
]

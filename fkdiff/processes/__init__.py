"""Paths from noise to data: coefficients, predictions, stochastic steps and their kernels."""

from fkdiff.processes.gaussian import (
    PREDICTIONS,
    Gaussian,
    Kernel,
    output_to_epsilon,
    predict_epsilon,
    predict_score,
    predict_x0,
    randn_rows,
    sde_step,
)
from fkdiff.processes.grid import Grid
from fkdiff.processes.tokens import MaskedPath, UniformPath

__all__ = [
    "PREDICTIONS",
    "Gaussian",
    "Grid",
    "Kernel",
    "MaskedPath",
    "UniformPath",
    "output_to_epsilon",
    "predict_epsilon",
    "predict_score",
    "predict_x0",
    "randn_rows",
    "sde_step",
]

"""Paths from noise to data: coefficients, predictions, stochastic steps and their kernels."""

from fkdiff.processes.gaussian import (
    PREDICTIONS,
    Gaussian,
    Kernel,
    predict_epsilon,
    predict_score,
    predict_x0,
    randn_rows,
    sde_step,
)

__all__ = [
    "PREDICTIONS",
    "Gaussian",
    "Kernel",
    "predict_epsilon",
    "predict_score",
    "predict_x0",
    "randn_rows",
    "sde_step",
]

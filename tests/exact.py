"""Closed forms, and the test that compares a mean with one of them."""

import torch
from torch import Tensor

__all__ = ["assert_mean", "chain_measure"]


def assert_mean(samples: Tensor, exact: Tensor | float, z: float = 4.5) -> None:
    """Compare the mean of independent samples (R, *) with its exact value (*).

    The tolerance comes from the samples themselves: `z` standard errors of the mean, component by
    component. At 4.5 a true statement fails in 7 of a million components.
    """
    samples = torch.as_tensor(samples, dtype=torch.float64)
    exact = torch.as_tensor(exact, dtype=torch.float64)
    mean = samples.mean(0)
    error = samples.std(0) / len(samples) ** 0.5
    # Without spread, what is left is rounding.
    score = (mean - exact).abs() / (error + 1e-12 * exact.abs() + 1e-300)
    assert bool((score < z).all()), (
        f"|z| = {score.max():.2f} for {len(samples)} samples: mean {mean}, exact {exact}"
    )


def chain_measure(initial: Tensor, kernel: Tensor, log_potentials: Tensor) -> Tensor:
    r"""Unnormalised final law of a weighted Markov chain on S states.

    $\gamma_T(x_T) = \sum_{x_0..x_{T-1}} \mu(x_0) \prod_t M(x_{t-1}, x_t) G_t(x_t)$: its sum is
    the normaliser Z.

    Arguments:
        initial: Law of the state before the first transition, shape (S,).
        kernel: Transition probabilities, shape (S, S), rows sum to 1.
        log_potentials: Log-potentials after each transition, shape (T, S).
    """
    measure = initial
    for log_g in log_potentials:
        measure = (measure @ kernel) * log_g.exp()
    return measure

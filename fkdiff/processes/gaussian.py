r"""Gaussian paths $x_t = \alpha_t x_0 + \sigma_t \epsilon$: predictions, SDE steps, kernels.

One pair $(\alpha, \sigma)$ covers variance preserving (alpha^2 + sigma^2 = 1), variance
exploding (alpha = 1) and flow matching (alpha = 1 - sigma) grids alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "PREDICTIONS",
    "Gaussian",
    "Kernel",
    "output_to_epsilon",
    "predict_epsilon",
    "predict_score",
    "predict_x0",
    "randn_rows",
    "sde_step",
]

PREDICTIONS = ("epsilon", "v_prediction", "flow_prediction", "sample")


@dataclass(frozen=True)
class Gaussian:
    r"""One transition of a Gaussian path, from $(\alpha, \sigma)$ to the next pair.

    Arguments:
        alpha: Signal coefficient before the transition, in [0, 1].
        sigma: Noise coefficient before the transition, positive.
        alpha_next: Signal coefficient after the transition.
        sigma_next: Noise coefficient after the transition, 0 at the end of the run.

    Example:
        >>> Gaussian(0.6, 0.8, 0.8, 0.6).log_snr
        -0.575...
    """

    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float

    @property
    def log_snr(self) -> float:
        r"""$\log \alpha^2 / \sigma^2$ before the transition."""
        if self.alpha == 0:
            return -math.inf
        return 2 * math.log(self.alpha / self.sigma)


@dataclass(frozen=True)
class Kernel:
    r"""The Gaussian transition $N(x'; \mathrm{mean}, \mathrm{std}^2 I)$, row by row.

    Arguments:
        mean: Shape (N, *).
        std: Standard deviation per coordinate, not negative; 0 is a deterministic step.
    """

    mean: Tensor
    std: float

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw the next state, row i from `generators[i]` alone, shape (N, *)."""
        if self.std == 0:
            return self.mean
        return self.mean + self.std * randn_rows(self.mean, generators)

    def log_prob(self, x_next: Tensor) -> Tensor:
        r"""Log-density of `x_next` (N, *), summed over coordinates, shape (N,), float64.

        Raises:
            ValueError: If the kernel is deterministic and has no density.
        """
        if self.std == 0:
            raise ValueError("std must be positive for a density, got 0; use a stochastic step")
        z = ((x_next - self.mean).double() / self.std).flatten(1)
        constant = z.shape[1] * (math.log(self.std) + 0.5 * math.log(2 * math.pi))
        return -0.5 * z.square().sum(dim=1) - constant


def randn_rows(like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise shaped like `like` (N, *), row i drawn from `generators[i]`.

    Noise is drawn on the generators' device and moved, so that a seed means the same everywhere.

    Raises:
        ValueError: If there is not one generator for each row.

    Example:
        >>> g = [torch.Generator().manual_seed(s) for s in (0, 0)]
        >>> z = randn_rows(torch.zeros(2, 3), g)
        >>> torch.equal(z[0], z[1])
        True
    """
    if len(generators) != len(like):
        raise ValueError(f"generators must number {len(like)}, one a row, got {len(generators)}")
    rows = [
        torch.randn(like.shape[1:], generator=g, device=g.device, dtype=like.dtype)
        for g in generators
    ]
    return torch.stack(rows).to(like.device)


def predict_x0(x: Tensor, output: Tensor, alpha: float, sigma: float, prediction: str) -> Tensor:
    r"""Denoised estimate $\hat x_0$ from a network output of any prediction type.

    epsilon: $(x - \sigma m) / \alpha$; v: $(\alpha x - \sigma m \sqrt{\alpha^2 + \sigma^2}) /
    (\alpha^2 + \sigma^2)$; flow: $x - \sigma m$ (velocity = noise - data); sample: $m$.

    Arguments:
        x: Noisy state, shape (N, *).
        output: Network output, same shape.
        alpha: Signal coefficient, positive for epsilon prediction.
        sigma: Noise coefficient.
        prediction: One of `PREDICTIONS`.

    Raises:
        ValueError: If `prediction` is unknown.

    Example:
        >>> x0, noise = torch.ones(1, 2), torch.full((1, 2), 3.0)
        >>> x = 0.6 * x0 + 0.8 * noise
        >>> predict_x0(x, noise, 0.6, 0.8, "epsilon")
        tensor([[1.0000, 1.0000]])
    """
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "v_prediction":
        power = alpha**2 + sigma**2
        return (alpha * x - sigma * math.sqrt(power) * output) / power
    if prediction == "flow_prediction":
        return x - sigma * output
    if prediction == "sample":
        return output
    raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")


def output_to_epsilon(
    x: Tensor, output: Tensor, alpha: float, sigma: float, prediction: str
) -> Tensor:
    r"""Noise estimate from a network output of any prediction type, finite also at alpha = 0.

    epsilon: m; score: $-\sigma m$; v: $(\sigma x + \alpha m \sqrt{\alpha^2 + \sigma^2}) /
    (\alpha^2 + \sigma^2)$; flow: $(1 - \alpha) x / \sigma + \alpha m$; sample:
    $(x - \alpha m) / \sigma$.

    Arguments:
        x: Noisy state, shape (N, *).
        output: Network output, same shape.
        alpha: Signal coefficient.
        sigma: Noise coefficient, positive.
        prediction: One of `PREDICTIONS`, or "score".

    Raises:
        ValueError: If `prediction` is unknown.

    Example:
        >>> output_to_epsilon(torch.tensor([2.0]), torch.tensor([-5.0]), 0.6, 0.8, "score")
        tensor([4.])
    """
    if prediction == "epsilon":
        return output
    if prediction == "score":
        return -sigma * output
    if prediction == "v_prediction":
        power = alpha**2 + sigma**2
        return (sigma * x + alpha * math.sqrt(power) * output) / power
    if prediction == "flow_prediction":
        return (1 - alpha) / sigma * x + alpha * output
    return predict_epsilon(x, predict_x0(x, output, alpha, sigma, prediction), alpha, sigma)


def predict_epsilon(x: Tensor, x0: Tensor, alpha: float, sigma: float) -> Tensor:
    r"""Noise estimate $\hat\epsilon = (x - \alpha \hat x_0) / \sigma$, shape (N, *).

    Arguments:
        x: State, shape (N, *).
        x0: Denoised estimate, same shape.
        alpha: Coefficient of the data.
        sigma: Coefficient of the noise, positive.

    Example:
        >>> predict_epsilon(torch.tensor([3.0]), torch.tensor([1.0]), 0.6, 0.8)
        tensor([3.])
    """
    return (x - alpha * x0).div_(sigma)


def predict_score(x: Tensor, x0: Tensor, alpha: float, sigma: float) -> Tensor:
    r"""Score estimate $\nabla_x \log q_t(x) = -\hat\epsilon / \sigma$, shape (N, *).

    Arguments:
        x: State, shape (N, *).
        x0: Denoised estimate, same shape.
        alpha: Coefficient of the data.
        sigma: Coefficient of the noise, positive.

    Example:
        >>> predict_score(torch.tensor([3.0]), torch.tensor([1.0]), 0.6, 0.8)
        tensor([-3.7500])
    """
    return -predict_epsilon(x, x0, alpha, sigma) / sigma


def sde_step(x: Tensor, x0: Tensor, path: Gaussian, eta: float = 1.0) -> Kernel:
    r"""Stochastic step that keeps the path's marginals as steps get small, for any grid.

    $$x' = \alpha' \hat x_0 + \sqrt{\sigma'^2 - \gamma^2}\, \hat\epsilon + \gamma z, \quad
    \gamma = \eta \frac{\sigma'}{\sigma} \sqrt{\sigma^2 - (\alpha / \alpha')^2 \sigma'^2}$$

    On a variance preserving grid this is DDIM with the same eta (DDPM's posterior at 1), on a
    variance exploding grid the ancestral Euler step, on a flow grid its counterpart. It returns
    exactly $\hat x_0$ at $\sigma' = 0$, so that no noise is left in the sample.

    Arguments:
        x: State before the step, shape (N, *).
        x0: Denoised estimate, same shape.
        path: Coefficients before and after; the signal-to-noise ratio must not fall.
        eta: Noise level in [0, 1]; 0 is the deterministic solver.

    Returns:
        The step's Gaussian kernel.

    Raises:
        ValueError: If `eta` is outside [0, 1].

    References:
        | Denoising Diffusion Implicit Models (Song et al., 2020)
        | https://arxiv.org/abs/2010.02502

    Example:
        >>> path = Gaussian(alpha=0.6, sigma=0.8, alpha_next=1.0, sigma_next=0.0)
        >>> sde_step(torch.zeros(1), torch.ones(1), path)
        Kernel(mean=tensor([1.]), std=0.0)
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}; 0 is the deterministic solver")
    variance = path.sigma**2 - (path.alpha / path.alpha_next * path.sigma_next) ** 2
    gamma = eta * path.sigma_next / path.sigma * math.sqrt(max(variance, 0.0))
    epsilon = predict_epsilon(x, x0, path.alpha, path.sigma)
    keep = math.sqrt(max(path.sigma_next**2 - gamma**2, 0.0))
    return Kernel(epsilon.mul_(keep).add_(path.alpha_next * x0), gamma)

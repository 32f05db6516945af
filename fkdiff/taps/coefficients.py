r"""Read $(\alpha, \sigma)$ and the denoised estimate out of any diffusers scheduler."""

from typing import Any

import torch
from torch import Tensor

from fkdiff.processes import PREDICTIONS, output_to_epsilon, predict_x0

__all__ = [
    "TapError",
    "as_predicted",
    "coefficients",
    "estimate_x0",
    "noise_of",
    "output_of",
    "prediction_type",
    "separates_copies",
    "time_of",
]


class TapError(ValueError):
    """A pipeline or scheduler that can't be steered as asked, with the remedy."""


def coefficients(scheduler: Any, timestep: Any) -> tuple[float, float] | None:
    r"""Forward coefficients at the scheduler's current position, in its own latent space.

    Noising ones with zeros gives alpha, noising zeros with ones gives sigma. Schedulers that keep
    a step index noise at that index, so call this before the step for the current pair and after
    it for the next one.

    Returns:
        (alpha, sigma), or None where the scheduler is past its last timestep or has no
        forward process.
    """
    index = getattr(scheduler, "step_index", None)
    name = type(scheduler).__name__
    if index is not None and index >= len(scheduler.timesteps):
        return None
    if name.startswith("EDM"):
        return 1.0, float(scheduler.sigmas[_position(scheduler, timestep)])
    if name == "IPNDMScheduler":
        i = _position(scheduler, timestep)
        return float(scheduler.alphas[i]), float(scheduler.betas[i])
    noise = getattr(scheduler, "scale_noise", None) or getattr(scheduler, "add_noise", None)
    if noise is None:
        if name != "LTXEulerAncestralRFScheduler":
            return None
        sigma = float(scheduler.sigmas[_position(scheduler, timestep)])
        return 1 - sigma, sigma
    t = time_of(timestep).reshape(1).to(scheduler.timesteps.device)
    if hasattr(scheduler, "scale_noise"):  # which takes one time
        ones, zeros = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        alpha, sigma = float(noise(ones, t, zeros)), float(noise(zeros, t, ones))
        if scheduler.config.get("invert_sigmas"):  # Mochi counts from noise 0 to data 1
            return sigma, alpha
        # A grid beyond 1 belongs to no flow: Cosmos-Predict2 adds noise to data of full size.
        return (1.0 if float(scheduler.sigmas.max()) > 1 else alpha), sigma
    data = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    alpha, sigma = noise(data, 1 - data, t.expand(2)).flatten().tolist()
    return alpha, sigma


def _position(scheduler: Any, timestep: Any) -> int:
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return index
    return int((scheduler.timesteps == time_of(timestep)).nonzero()[0])


def time_of(timestep: Any) -> Tensor:
    """The time of a step, without axes; some pipelines give it once for each row.

    Raises:
        TapError: If rows are at different times.

    Example:
        >>> time_of(torch.full((3,), 7.0))
        tensor(7.)
    """
    times = torch.as_tensor(timestep).flatten()
    if len(times) > 1 and bool((times != times[0]).any()):
        raise TapError(
            "timestep must be the same for all rows of a step, got rows at different times, whose "
            "particles have no common noise level; steer a pipeline that steps them together"
        )
    return times[0]


def prediction_type(scheduler: Any) -> str:
    """Prediction type of the network that the scheduler expects.

    Raises:
        TapError: If the scheduler states none and isn't a flow matching one.
    """
    stated = scheduler.config.get("prediction_type")
    name = type(scheduler).__name__
    if name in ("IPNDMScheduler", "DDPMWuerstchenScheduler"):
        return "epsilon"
    if stated is None and ("FlowMatch" in name or name == "LTXEulerAncestralRFScheduler"):
        return "flow_prediction"
    if stated in PREDICTIONS:
        return stated
    raise TapError(
        f"{name} has no denoised estimate (prediction_type {stated!r}); set another scheduler, "
        f"for example pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)"
    )


def estimate_x0(
    scheduler: Any, index: int | None, pair: tuple[float, float] | None, x: Tensor, output: Tensor
) -> Tensor:
    """Denoised estimate from the network output, for schedulers that don't return their own.

    Arguments:
        scheduler: The scheduler.
        index: Its step index when the output was given to it, None if it keeps none.
        pair: (alpha, sigma) at that time.
        x: State given to the step, shape (N, *).
        output: Network output given to the step; a learned variance is dropped.

    Raises:
        TapError: If the scheduler tells no estimate.
    """
    output = as_predicted(scheduler, output)
    output = output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output
    if hasattr(scheduler, "precondition_outputs"):
        return scheduler.precondition_outputs(x, output, scheduler.sigmas[index])
    prediction = prediction_type(scheduler)
    if pair is None:
        raise TapError(f"{type(scheduler).__name__} tells no noise level; set another scheduler")
    if prediction == "epsilon" and pair[0] == 0:
        raise TapError(
            f"{type(scheduler).__name__} starts from pure noise, where a network that predicts "
            f"the noise tells no estimate; set another scheduler"
        )
    return predict_x0(x, output, *pair, prediction)


def as_predicted(scheduler: Any, output: Tensor) -> Tensor:
    """Network output with the sign of its prediction type: Mochi's velocity points to the data."""
    return -output if scheduler.config.get("invert_sigmas") else output


_STOCHASTIC = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDPMWuerstchenScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "SASolverScheduler",
    "LCMScheduler",
    "CMStochasticIterativeScheduler",
    "CogVideoXDPMScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "SCMScheduler",
    "UnCLIPScheduler",
)


def separates_copies(scheduler: Any, arguments: dict[str, Any]) -> bool:
    """Whether one step gives copies of a particle different futures.

    Arguments:
        scheduler: The scheduler.
        arguments: What the pipeline passes to `step` (eta, s_churn).
    """
    if type(scheduler).__name__ in _STOCHASTIC:
        return True
    if str(scheduler.config.get("algorithm_type", "")).startswith("sde"):
        return True
    if scheduler.config.get("stochastic_sampling"):
        return True
    dead_churn = "FlowMatch" in type(scheduler).__name__  # accepts s_churn and ignores it
    churn = 0 if dead_churn else arguments.get("s_churn") or 0
    return (arguments.get("eta") or 0) > 0 or churn > 0


def noise_of(
    scheduler: Any, index: int | None, pair: tuple[float, float], x: Tensor, output: Tensor
) -> Tensor:
    r"""Noise estimate $\hat\epsilon$ from a prediction, finite also in pure noise.

    Arguments:
        scheduler: The scheduler.
        index: Its step index when the output was given to it, None if it keeps none.
        pair: (alpha, sigma) at that time.
        x: State, shape (N, *).
        output: Prediction with the sign of its type, same shape.
    """
    if hasattr(scheduler, "precondition_outputs"):
        estimate = scheduler.precondition_outputs(x, output, scheduler.sigmas[index])
        return (x - pair[0] * estimate) / pair[1]
    return output_to_epsilon(x, output, *pair, prediction_type(scheduler))


def output_of(
    scheduler: Any, index: int | None, pair: tuple[float, float], x: Tensor, noise: Tensor
) -> Tensor:
    """The prediction that a noise estimate stands for: the inverse of `noise_of`, affine too."""
    zeros, one = torch.zeros_like(x), torch.ones(1, dtype=x.dtype, device=x.device)
    gain = noise_of(scheduler, index, pair, 0 * one, one)
    return (noise - noise_of(scheduler, index, pair, x, zeros)) / gain

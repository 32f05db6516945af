"""A tiny real pipeline whose network is exact, so that every answer is known.

The data law is a product of 1-D Gaussian mixtures, one a coordinate. The network returns the
exact prediction for it, the schedulers are diffusers' own, and latents are float64. Prompts are
repetitions: P prompts of K particles each cost one vectorised call.
"""

import inspect
import math
from dataclasses import dataclass

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
)
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from fkdiff import as_reward, steer
from fkdiff.smc import Resample

__all__ = [
    "CHAINS",
    "GAUSSIAN",
    "MIXTURE",
    "TYPES",
    "AnalyticPipeline",
    "Chain",
    "Data",
    "cloud",
    "latent_reward",
    "levels",
    "pipeline",
    "resampled",
]


@dataclass(frozen=True)
class Data:
    """C weighted Gaussians in each of d independent coordinates.

    Arguments:
        weights: Shape (C,), sums to 1.
        means: Shape (C, d).
        variances: Shape (C, d).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one latent: coordinates are channels of one pixel."""
        return self.means.shape[1], 1, 1

    def x0(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Posterior mean given x = alpha * data + sigma * noise, both of shape (N, d, 1, 1)."""
        means, variances = self.means[..., None, None], self.variances[..., None, None]
        total = alpha**2 * variances + sigma**2
        away = x[:, None] - alpha * means
        log_w = self.weights.log()[:, None, None, None] - (away**2 / total + total.log()) / 2
        each = means + alpha * variances / total * away
        return (log_w.softmax(1) * each).sum(1)


def _tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


GAUSSIAN = Data(_tensor([1.0])[0], _tensor([0.4, -0.3]), _tensor([0.09, 0.5]))
MIXTURE = Data(_tensor([0.3, 0.7])[0], _tensor([-0.9], [0.6]), _tensor([0.05], [0.12]))


# Two narrow types, equally likely by symmetry whatever the chain, told apart by the sign.
TYPES = Data(_tensor([0.5, 0.5])[0], _tensor([-1.0], [1.0]), _tensor([0.002], [0.002]))


class ExactNetwork(nn.Module):
    """Predicts epsilon, v or flow exactly for `data`."""

    def __init__(self, data: Data, prediction: str) -> None:
        super().__init__()
        self.data = data
        self.prediction = prediction

    def forward(self, sample: Tensor, timestep: Tensor, alpha: float, sigma: float) -> tuple:
        x0 = self.data.x0(sample.double(), alpha, sigma)
        noise = (sample - alpha * x0) / sigma
        if self.prediction == "epsilon":
            return (noise,)
        if self.prediction == "v_prediction":
            return (alpha * noise - sigma * x0,)
        return (noise - x0,)


def levels(scheduler) -> list[tuple[float, float]]:
    """(alpha, sigma) of the latents at each timestep and at the end, from the scheduler's tables.

    Read here and not through fkdiff, whose own reading is under test.
    """
    if isinstance(scheduler, DDIMScheduler | DDPMScheduler):
        signal = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
        signal.append(float(getattr(scheduler, "final_alpha_cumprod", 1.0)))
        return [(math.sqrt(a), math.sqrt(1 - a)) for a in signal]
    sigmas = [float(s) for s in scheduler.sigmas]
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return [(1 - s, s) for s in sigmas]
    if isinstance(scheduler, DPMSolverMultistepScheduler):  # its sigmas are sigma / alpha
        return [(1 / math.hypot(1, s), s / math.hypot(1, s)) for s in sigmas]
    return [(1.0, s) for s in sigmas]


class AnalyticPipeline(DiffusionPipeline):
    """The usual loop of a diffusers pipeline, and nothing else."""

    def __init__(self, unet, scheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)

    @property
    def start_sd(self) -> float:
        """Spread of the starting latents under the prepared scheduler."""
        return float(getattr(self.scheduler, "init_noise_sigma", 1.0))

    def move(self, x: Tensor, i: int, generator=None, eta: float = 0.0) -> Tensor:
        """Transition i of the prepared scheduler."""
        t = self.scheduler.timesteps[i]
        alpha, sigma = levels(self.scheduler)[i]
        scale = getattr(self.scheduler, "scale_model_input", lambda x, t: x)
        gain = float(scale(torch.ones(1), t))
        output = self.unet(scale(x, t), t, alpha=gain * alpha, sigma=gain * sigma)[0]
        takes_eta = "eta" in inspect.signature(self.scheduler.step).parameters
        extra = {"eta": eta} if takes_eta else {}
        step = self.scheduler.step(output, t, x, generator=generator, return_dict=False, **extra)
        return step[0].double()

    @torch.no_grad()
    def __call__(
        self,
        prompt=None,
        num_inference_steps: int = 8,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator=None,
        latents=None,
        return_dict: bool = True,
    ):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = len(prompts) * num_images_per_prompt
        self.scheduler.set_timesteps(num_inference_steps)
        if latents is None:
            shape = (rows, *self.unet.data.shape)
            latents = randn_tensor(shape, generator=generator, dtype=torch.float64)
        x = latents * self.start_sd
        for i in range(len(self.progress_bar(self.scheduler.timesteps))):
            x = self.move(x, i, generator, eta)
        return ImagePipelineOutput(images=x) if return_dict else (x,)


@dataclass(frozen=True)
class Chain:
    """A scheduler as it is used: how it is made, its eta, and whether fkdiff replaces its step."""

    make: type
    config: tuple[tuple[str, object], ...] = ()
    prediction: str = "epsilon"
    eta: float = 0.0
    replaced: bool = False
    markov: bool = True

    def scheduler(self):
        config = dict(self.config)
        if self.prediction != "flow_prediction":
            config["prediction_type"] = self.prediction
        return self.make(**config)


def _chain(make, prediction="epsilon", eta=0.0, replaced=False, markov=True, **config) -> Chain:
    return Chain(make, tuple(config.items()), prediction, eta, replaced, markov)


_PLAIN = {"clip_sample": False}
_LAST_STEP_NOISY = _PLAIN | {"set_alpha_to_one": False, "timestep_spacing": "trailing"}

CHAINS = {
    "ddim_eta1": _chain(DDIMScheduler, eta=1.0, **_PLAIN),
    "ddim_eta1_noisy_end": _chain(DDIMScheduler, "v_prediction", 1.0, **_LAST_STEP_NOISY),
    "ddim_eta_half": _chain(DDIMScheduler, eta=0.5, **_PLAIN, timestep_spacing="trailing"),
    "ddpm": _chain(DDPMScheduler, **_PLAIN),
    "euler_ancestral": _chain(EulerAncestralDiscreteScheduler),
    "sde_dpm": _chain(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++", markov=False),
    "flow_replaced": _chain(
        FlowMatchEulerDiscreteScheduler, "flow_prediction", replaced=True, shift=3.0
    ),
    "ddim_eta0_replaced": _chain(DDIMScheduler, replaced=True, **_PLAIN),
    "euler_replaced": _chain(EulerDiscreteScheduler, "v_prediction", replaced=True),
}


def pipeline(chain: Chain | str, data: Data) -> AnalyticPipeline:
    """An analytic pipeline for a chain, or the name of one."""
    chain = CHAINS[chain] if isinstance(chain, str) else chain
    return AnalyticPipeline(ExactNetwork(data, chain.prediction), chain.scheduler())


def latent_reward(fn, name: str = "reward", **settings):
    """A reward on latents (n, d, 1, 1) from a function of (n, d)."""
    return as_reward(lambda x: fn(x.flatten(1).double()), name=name, inputs="latents", **settings)


def cloud(chain: Chain | str, data: Data, *terms, prompts=1, steps: int = 8, **settings):
    """The `Result` of one steered call.

    Arguments:
        chain: A chain, or the name of one.
        data: What the network knows.
        terms: Terms of the run.
        prompts: A list of prompts, or the number of repetitions.
        steps: Number of steps.
        settings: Settings of `steer`; resampling is on during the whole run by default.
    """
    chain = CHAINS[chain] if isinstance(chain, str) else chain
    settings = {"particles": 6, "resample": Resample(ess=0.9, window=(0, 1)), "seed": 0} | settings
    steered = steer(pipeline(chain, data), *terms, **settings)
    prompts = [""] * prompts if isinstance(prompts, int) else prompts
    return steered(prompts, num_inference_steps=steps, eta=chain.eta).steering


def resampled(result) -> bool:
    """Whether any particle was ever replaced."""
    return any(rows is not None for rows in result.rows)

"""Every scheduler of diffusers in the configurations that change how it steps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import diffusers

from tests.taps.toy import ToyPipeline

__all__ = ["CASES", "MISSING", "OTHERS", "Case"]

EPSILON, V, FLOW = "epsilon", "v_prediction", "flow_prediction"


@dataclass(frozen=True)
class Case:
    """A scheduler configuration and what must be true of it.

    Arguments:
        name: Class in diffusers.
        config: Arguments of the constructor.
        step: Keywords that a pipeline passes to `step`.
        remembers: Whether the solver looks back: without its history a permuted run differs.
        noisy: Whether it draws noise.
        levels: Whether it tells noise levels; without them its step can't be replaced.
        estimates: Whether it tells a denoised estimate; without one it can't be steered.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    remembers: bool = False
    noisy: bool = False
    levels: bool = True
    estimates: bool = True

    def __str__(self) -> str:
        parts = [self.name.removesuffix("Scheduler")]
        for key, value in {**self.config, **self.step}.items():
            parts.append(key if value is True else f"{key}={value}")
        return "-".join(parts)

    def pipe(self) -> ToyPipeline:
        return ToyPipeline(getattr(diffusers, self.name)(**self.config), self.step)


def alphas() -> Iterator[Case]:
    """Variance preserving schedulers with a table of alphas."""
    plain = {"clip_sample": False}
    for name in ("DDIMScheduler", "DDIMParallelScheduler"):
        for prediction in (EPSILON, V, "sample"):
            yield Case(name, {**plain, "prediction_type": prediction})
        for eta in (0.5, 1.0):
            yield Case(name, plain, {"eta": eta}, noisy=True)
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        yield Case(name, {**plain, **zero_snr, "prediction_type": V})
        yield Case(name, {**plain, "set_alpha_to_one": False, "steps_offset": 1})
    for name in ("DDPMScheduler", "DDPMParallelScheduler"):
        for prediction in (EPSILON, V):
            yield Case(name, {**plain, "prediction_type": prediction}, noisy=True)
        yield Case(name, {**plain, "variance_type": "fixed_large"}, noisy=True)
    for skip in (False, True):
        yield Case("PNDMScheduler", {"skip_prk_steps": skip}, remembers=True)
    yield Case("PNDMScheduler", {"skip_prk_steps": True, "prediction_type": V}, remembers=True)
    yield Case("CogVideoXDDIMScheduler", plain)
    yield Case("CogVideoXDDIMScheduler", {**plain, "prediction_type": V})
    yield Case("CogVideoXDPMScheduler", plain, remembers=True, noisy=True)
    yield Case("LCMScheduler", {"original_inference_steps": 50}, noisy=True)
    yield Case("TCDScheduler", {"original_inference_steps": 50}, noisy=True)
    yield Case("TCDScheduler", {"original_inference_steps": 50}, {"eta": 0.0})


def sigmas() -> Iterator[Case]:
    """Variance exploding schedulers in the manner of k-diffusion and EDM."""
    grids = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
    for grid in (*grids, {"prediction_type": V}):
        yield Case("EulerDiscreteScheduler", grid)
        yield Case("HeunDiscreteScheduler", grid, remembers=True)
    coarse = {"num_train_timesteps": 100, "beta_end": 0.2}  # these two search the table in Python
    for grid in (grids[0], grids[1], {"prediction_type": V}):
        config = {**coarse, **grid}
        yield Case("KDPM2DiscreteScheduler", config, remembers=True)
        yield Case("KDPM2AncestralDiscreteScheduler", config, remembers=True, noisy=True)
    yield Case("EulerDiscreteScheduler", step={"s_churn": 2.0}, noisy=True)
    for prediction in (EPSILON, V):
        config = {"prediction_type": prediction}
        yield Case("EulerAncestralDiscreteScheduler", config, noisy=True)
        yield Case("EDMEulerScheduler", config)
        for order in (1, 2, 3):
            solver = {**config, "solver_order": order}
            yield Case("EDMDPMSolverMultistepScheduler", solver, remembers=order > 1)
    yield Case("EDMEulerScheduler", {"sigma_schedule": "exponential"})
    yield Case("EDMEulerScheduler", step={"s_churn": 2.0}, noisy=True)
    noisy = {"algorithm_type": "sde-dpmsolver++"}
    yield Case("EDMDPMSolverMultistepScheduler", noisy, remembers=True, noisy=True)
    yield Case("IPNDMScheduler", remembers=True)
    yield Case("CMStochasticIterativeScheduler", noisy=True, estimates=False)


def multistep() -> Iterator[Case]:
    """Solvers with a history, on all their grids."""
    flow = {"prediction_type": FLOW, "use_flow_sigmas": True}
    grids = [
        {"use_karras_sigmas": True},
        {"prediction_type": V},
        flow,
        {**flow, "flow_shift": 3.0},
    ]
    multi, single = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
    for order in (1, 2, 3):
        config, back = {"solver_order": order}, order > 1
        yield Case(multi, config, remembers=back)
        yield Case(single, config, remembers=back)
        yield Case("DEISMultistepScheduler", config, remembers=back)
        yield Case("UniPCMultistepScheduler", config, remembers=True)
        old = {**config, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
        yield Case(multi, old, remembers=back)
        sde = {**config, "algorithm_type": "sde-dpmsolver++"}
        yield Case(multi, sde, remembers=back, noisy=True)
    sde = {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
    yield Case(multi, sde, remembers=True, noisy=True)
    yield Case(multi, {"solver_type": "heun"}, remembers=True)
    yield Case(multi, {"use_lu_lambdas": True}, remembers=True)
    yield Case(single, {"algorithm_type": "sde-dpmsolver++"}, remembers=True, noisy=True)
    for grid in grids:
        for name in (multi, single, "DEISMultistepScheduler", "UniPCMultistepScheduler"):
            yield Case(name, grid, remembers=True)
        sde = {**grid, "algorithm_type": "sde-dpmsolver++"}
        yield Case(multi, sde, remembers=True, noisy=True)
        yield Case("SASolverScheduler", grid, remembers=True, noisy=True)
    yield Case("SASolverScheduler", remembers=True, noisy=True)
    yield Case(
        "SASolverScheduler", {"algorithm_type": "noise_prediction"}, remembers=True, noisy=True
    )
    for other in ({"solver_type": "bh1"}, {"predict_x0": False}):  # both need a last sigma above 0
        config = {**other, "final_sigmas_type": "sigma_min"}
        yield Case("UniPCMultistepScheduler", config, remembers=True)


def flow_matching() -> Iterator[Case]:
    """Straight paths, alpha = 1 - sigma."""
    euler = "FlowMatchEulerDiscreteScheduler"
    for grid in ({}, {"shift": 3.0}, {"use_karras_sigmas": True}):
        yield Case(euler, grid)
    yield Case(euler, {"stochastic_sampling": True}, noisy=True)
    yield Case(euler, step={"s_churn": 2.0})  # an argument that it accepts and ignores
    yield Case("FlowMatchHeunDiscreteScheduler", remembers=True)
    yield Case("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, remembers=True)
    yield Case("FlowMatchLCMScheduler", noisy=True)
    yield Case("LTXEulerAncestralRFScheduler", noisy=True)
    yield Case("SCMScheduler", noisy=True, levels=False)
    yield Case("FlowMapEulerDiscreteScheduler", estimates=False)
    yield Case("MiniMaxH3Scheduler", estimates=False)


CASES = [*alphas(), *sigmas(), *multistep(), *flow_matching()]

MISSING = {
    "CosineDPMSolverMultistepScheduler": "torchsde",
    "DPMSolverSDEScheduler": "torchsde",
    "LMSDiscreteScheduler": "scipy",
}

_TOKENS = "samples tokens"
_INVERSION = "runs from data to noise"
OTHERS = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "DDIMInverseScheduler": _INVERSION,
    "DPMSolverMultistepInverseScheduler": _INVERSION,
    "DDPMWuerstchenScheduler": "wants a time for each row",
    "UnCLIPScheduler": "is told the next time by its pipeline",
    "RePaintScheduler": "also steps back, and needs an image and a mask",
    "HeliosScheduler": "changes the resolution during a run",
    "HeliosDMDScheduler": "changes the resolution during a run",
    "PiflowScheduler": "its network returns a policy",
    "RFD4ProteinaScheduler": "steps proteins",
    "KarrasVeScheduler": "deprecated, has two kinds of step",
    "ScoreSdeVeScheduler": "has a predictor and a corrector instead of a step",
    "ScoreSdeVpScheduler": "has a predictor instead of a step",
    "ConsistencyDecoderScheduler": "decodes latents",
}

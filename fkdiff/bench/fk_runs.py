"""The runs that the FK bench compares, one prompt and seed at a time, judged by `emoji-judge`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from fkdiff import Resample, Result, Steered, Tilt, as_reward, steer, zoo
from fkdiff.bench import BenchRefused
from fkdiff.rewards import Brightness, Colourfulness, JPEGSize
from fkdiff.rewards.text_image import emoji_clip
from fkdiff.terms.reward import Reward, evaluate
from fkdiff.zoo import judge as judges

__all__ = ["ETAS", "Runner", "Settings"]

ETAS = {"ode": 0.0, "sde": 1.0}


@dataclass(frozen=True)
class Settings:
    """What the runs share; scale, window and guidance were chosen on the prompts `tune` only."""

    steps: int = 20
    scale: float = 4.0  # of the tilt, per standard deviation of `emoji-clip`
    window: tuple[float, float] = (0.7, 0.95)  # shares of the run where resampling may fire
    guidance: float | None = 2.0  # None for the card's
    samples: int = 8  # plain ones of each solver for a prompt and seed, at least 8


@dataclass
class Runner:
    """Draws and judges; each run is a dictionary as JSON knows it.

    Its `passed` (the judge's verdict), `reward` (`emoji-clip`), `calibrated` (the same per
    standard deviation) and `monitor` (by name) are lists over the K samples; `chosen` is the slot
    of the sample that comes out, `nfe` the denoiser evaluations (a guided pair counts two),
    `seconds` those with decoding and rewards, without judge and monitors, `diversity` the mean
    distance of two samples in the judge's features, `ancestors` how many first ones survive.
    """

    pipe: Any  # of 64x64 pictures; its scheduler becomes DDIM
    reward: Reward  # selects and steers
    judge: judges.Judge  # nothing steers on it
    settings: Settings
    models: Mapping[str, str] = field(default_factory=dict)  # digests of the weights

    def __post_init__(self) -> None:
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)

    @classmethod
    def bundled(cls, settings: Settings) -> "Runner":
        """The zoo's model, reward and judge.

        Raises:
            BenchRefused: If weights are missing, with the commands that train them.
        """
        try:
            judge = judges.load_judge()
            pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
        except FileNotFoundError as error:
            raise BenchRefused(
                "the bench fk needs the bundled emoji and emoji-judge, whose weights aren't in "
                "this installation; train them: python -m fkdiff.zoo.train emoji, and judge"
            ) from error
        # On CPUs convolutions are about a seventh faster in this layout.
        pipe.unet.to(memory_format=torch.channels_last)
        models = {name: zoo.digest(name) for name in ("emoji", "emoji-clip", "emoji-judge")}
        return cls(pipe, emoji_clip(), judge, settings, models)

    def both(self, prompt: str, particles: int, seed: int) -> dict[str, Any]:
        """Independent samples of each solver, from which best-of-n and the like choose."""
        term = Tilt(self.reward, scale=self.settings.scale, potential="none")
        free: dict[str, Any] = {"resample": None, "stochastic": False, "select": "all"}
        steered = steer(self.pipe, term, particles=particles, seed=seed, **free)
        return {solver: self._run(steered, prompt, eta) for solver, eta in ETAS.items()}

    def steered(
        self, prompt: str, particles: int, seed: int, reward: Reward | None = None
    ) -> dict[str, Any]:
        """An FK run with DDIM's stochastic step; `select="best"` chooses what comes out."""
        term = Tilt(reward or self.reward, scale=self.settings.scale)
        resample = Resample(window=self.settings.window)
        steered = steer(self.pipe, term, particles=particles, resample=resample, seed=seed)
        return self._run(steered, prompt, ETAS["sde"])

    def alone(self, prompt: str, particles: int, seed: int) -> dict[str, Any]:
        """One FK run, by name."""
        return {"fk": self.steered(prompt, particles, seed)}

    def arms(self, prompt: str, other: str, seed: int) -> dict[str, Any]:
        """All runs of the arms for one prompt and seed.

        Controls: `shuffled` rewards another prompt, `constant` all alike.
        """
        shuffled = as_reward(
            lambda pixels, prompts: self.reward(pixels, prompts=[other] * len(prompts)),
            name="shuffled",
            mean=self.reward.mean,
            sd=self.reward.sd,
        )
        constant = as_reward(lambda pixels: torch.zeros(len(pixels)), name="constant")
        return {
            **self.both(prompt, self.settings.samples, seed),
            "fk4": self.steered(prompt, 4, seed),
            "fk8": self.steered(prompt, 8, seed),
            "shuffled": self.steered(prompt, 4, seed, shuffled),
            "constant": self.steered(prompt, 4, seed, constant),
        }

    def scaled(self, prompt: str, sizes: Sequence[int], seed: int) -> dict[str, Any]:
        """Runs of the scaling plot."""
        steered = {f"fk{n}": self.steered(prompt, n, seed) for n in sizes}
        return self.both(prompt, max(sizes), seed) | steered

    def _run(self, steered: Steered, prompt: str, eta: float) -> dict[str, Any]:
        call = {"num_inference_steps": self.settings.steps, "eta": eta, "output_type": "pt"}
        if self.settings.guidance is not None:
            call["guidance_scale"] = self.settings.guidance
        result: Result = steered(prompt, **call).steering
        assert result.samples is not None and result.selected is not None
        pictures = result.samples[0]
        n, prompts = len(pictures), [prompt] * len(pictures)
        rewards: list[Any] = [self.reward, Brightness(), Colourfulness(), JPEGSize()]
        values = [evaluate(r, pictures, {"prompts": prompts}).tolist() for r in rewards]
        monitors = zip(rewards[1:], values[1:], strict=True)
        features = self.judge.features(pictures)
        return {
            "passed": self.judge.passes(pictures, prompts),
            "reward": values[0],
            "calibrated": [(v - self.reward.mean) / self.reward.sd for v in values[0]],
            "monitor": {reward.name: found for reward, found in monitors},
            "chosen": int(result.selected[0, 0]),
            "nfe": result.cost.denoiser_evaluations,
            "seconds": result.cost.seconds["total"],
            "diversity": float(torch.cdist(features, features).sum() / max(n * (n - 1), 1)),
            "ancestors": len(result.ancestors()[0].unique()),
        }

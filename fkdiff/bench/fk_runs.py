"""The runs that the FK bench compares, one prompt and seed at a time, judged by `emoji-judge`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from fkdiff import zoo
from fkdiff.bench import BenchRefused
from fkdiff.result import Result
from fkdiff.rewards import Brightness, Colourfulness, JPEGSize
from fkdiff.rewards.text_image import emoji_clip
from fkdiff.smc import Resample
from fkdiff.steering import steer
from fkdiff.terms.fk_steering import Tilt
from fkdiff.terms.reward import Reward, as_reward, evaluate

if TYPE_CHECKING:
    from fkdiff.zoo.judge import Judge

__all__ = ["ETAS", "RunRow", "Runner", "Settings"]

ETAS = {"ode": 0.0, "sde": 1.0}


@dataclass(frozen=True)
class Settings:
    """What the runs share; scale, window and guidance were chosen on the prompts `tune` only.

    Arguments:
        steps: Denoising steps.
        scale: Scale of the tilt, per standard deviation of `emoji-clip`.
        window: Shares of the run between which resampling may fire.
        guidance: Guidance scale, None for the card's.
        samples: Plain samples of each solver for a prompt and seed, at least 8.
    """

    steps: int = 20
    scale: float = 4.0
    window: tuple[float, float] = (0.7, 0.95)
    guidance: float | None = 2.0
    samples: int = 8


@dataclass(frozen=True)
class RunRow:
    """A cloud of K samples: verdict, reward and monitors of each, which was chosen, and the cost.

    Arguments:
        passed: Whether the judge passes each sample, length K.
        reward: `emoji-clip`'s value of each.
        calibrated: The same per standard deviation of its calibration.
        monitor: Monitor rewards by name.
        chosen: Slot of the sample that comes out.
        nfe: Denoiser evaluations, a guided pair counts two.
        seconds: Wall-clock seconds with decoding and rewards, without judge and monitors.
        diversity: Mean distance of two samples in the judge's features.
        ancestors: First ancestors that survive.
    """

    passed: list[bool]
    reward: list[float]
    calibrated: list[float]
    monitor: dict[str, list[float]]
    chosen: int
    nfe: int
    seconds: float
    diversity: float
    ancestors: int


class Runner:
    """Draws and judges.

    Arguments:
        pipe: A pipeline of 64x64 pictures; its scheduler becomes DDIM.
        reward: Reward that selects and steers.
        judge: Independent verifier, which nothing steers on.
        settings: What the runs share.
        models: Digests of the weights, kept beside the results.
    """

    def __init__(
        self,
        pipe: Any,
        reward: Reward,
        judge: "Judge",
        settings: Settings,
        models: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.pipe, self.reward, self.judge, self.settings = pipe, reward, judge, settings
        self.models = dict(models)
        self.pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)
        self.monitors: list[Reward] = [Brightness(), Colourfulness(), JPEGSize()]

    @classmethod
    def bundled(cls, settings: Settings) -> "Runner":
        """The zoo's model, reward and judge.

        Raises:
            BenchRefused: If weights are missing, with the commands that train them.
        """
        from fkdiff.zoo.judge import load_judge

        try:
            judge = load_judge()
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

    def plain(self, prompt: str, solver: str, particles: int, seed: int) -> dict[str, Any]:
        """Independent samples, scored once: best-of-n and importance sampling choose from them."""
        term = Tilt(self.reward, scale=self.settings.scale, potential="none")
        kept = steer(
            self.pipe,
            term,
            particles=particles,
            resample=None,
            stochastic=False,
            select="all",
            seed=seed,
        )
        return self._row(prompt, kept(prompt, **self._call(ETAS[solver])).steering)

    def steered(
        self, prompt: str, particles: int, seed: int, reward: Reward | None = None
    ) -> dict[str, Any]:
        """An FK run with DDIM's stochastic step; `select="best"` chooses what comes out."""
        kept = steer(
            self.pipe,
            Tilt(reward or self.reward, scale=self.settings.scale),
            particles=particles,
            resample=Resample(window=self.settings.window),
            seed=seed,
        )
        return self._row(prompt, kept(prompt, **self._call(ETAS["sde"])).steering)

    def blind(self, other: str) -> Reward:
        """The same reward asked about another prompt: what it prefers is of no use."""
        return as_reward(
            lambda pixels, prompts: self.reward(pixels, prompts=[other] * len(prompts)),
            name="shuffled",
            mean=self.reward.mean,
            sd=self.reward.sd,
        )

    def constant(self) -> Reward:
        """A reward without an opinion: its run is a plain one."""
        return as_reward(lambda pixels: torch.zeros(len(pixels)), name="constant")

    def both(self, prompt: str, particles: int, seed: int) -> dict[str, Any]:
        """Plain samples of each solver."""
        return {solver: self.plain(prompt, solver, particles, seed) for solver in ETAS}

    def chosen(self, prompt: str, particles: int, seed: int) -> dict[str, Any]:
        """One steered run."""
        return {"fk": self.steered(prompt, particles, seed)}

    def arms(self, prompt: str, other: str, seed: int) -> dict[str, Any]:
        """All runs of the arms for one prompt and seed."""
        return {
            **self.both(prompt, self.settings.samples, seed),
            "fk4": self.steered(prompt, 4, seed),
            "fk8": self.steered(prompt, 8, seed),
            "shuffled": self.steered(prompt, 4, seed, self.blind(other)),
            "constant": self.steered(prompt, 4, seed, self.constant()),
        }

    def scaled(self, prompt: str, sizes: Sequence[int], seed: int) -> dict[str, Any]:
        """Runs of the scaling plot."""
        steered = {f"fk{n}": self.steered(prompt, n, seed) for n in sizes}
        return self.both(prompt, max(sizes), seed) | steered

    def _call(self, eta: float) -> dict[str, Any]:
        call = {"num_inference_steps": self.settings.steps, "eta": eta, "output_type": "pt"}
        if self.settings.guidance is not None:
            call["guidance_scale"] = self.settings.guidance
        return call

    def _row(self, prompt: str, result: Result) -> dict[str, Any]:
        assert result.samples is not None and result.selected is not None
        pictures = result.samples[0]
        prompts = [prompt] * len(pictures)
        values = self._values(self.reward, pictures, prompts)
        monitor = {r.name: self._values(r, pictures, prompts) for r in self.monitors}
        row = RunRow(
            passed=self.judge.passes(pictures, prompts),
            reward=values,
            calibrated=[(v - self.reward.mean) / self.reward.sd for v in values],
            monitor=monitor,
            chosen=int(result.selected[0, 0]),
            nfe=result.cost.denoiser_evaluations,
            seconds=result.cost.seconds["total"],
            diversity=_spread(self.judge.features(pictures)),
            ancestors=len(result.ancestors()[0].unique()),
        )
        return asdict(row)

    def _values(self, reward: Reward, pictures: Tensor, prompts: list[str]) -> list[float]:
        asked: Callable[..., Any] = reward
        return evaluate(asked, pictures, {"prompts": prompts}).tolist()


def _spread(features: Tensor) -> float:
    """Mean distance of two rows; 0 where there is one.

    >>> _spread(torch.tensor([[0.0], [3.0], [3.0]]))
    2.0
    """
    n = len(features)
    return float(torch.cdist(features, features).sum() / max(n * (n - 1), 1))

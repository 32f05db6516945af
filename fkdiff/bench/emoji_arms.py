"""What the benches on `emoji` share: arms, real pictures, distances, the independent judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff import zoo
from fkdiff.bench.kept import Kept
from fkdiff.steering import steer
from fkdiff.zoo.judge import Judge, load_judge
from fkdiff.zoo.parse import parse
from fkdiff.zoo.render import render

__all__ = [
    "Arm",
    "Clouds",
    "Drawn",
    "adapter",
    "clouds_of",
    "distances",
    "emoji",
    "fetched_art",
    "judge",
    "models",
    "real_pictures",
    "share",
    "summary",
]

_ART = Path("training/zoo/cache")
ROWS = 32
"""Particles of one call: clouds are drawn together while they are few."""


def clouds_of(count: int) -> list[str]:
    """So many prompts of the evaluation list, again from its start where it ends."""
    lines = zoo.prompts("eval")
    return [lines[i % len(lines)] for i in range(count)]


def emoji() -> Any:
    """The bundled pipeline, silent; its U-Net computes in bfloat16 and predicts in float32."""
    from accelerate.utils import convert_outputs_to_fp32
    from diffusers import DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    # A seventh and a third faster; judged features move in the fourth digit.
    pipe.unet.to(memory_format=torch.channels_last)
    half = torch.autocast("cpu", torch.bfloat16)
    pipe.unet.forward = convert_outputs_to_fp32(half(pipe.unet.forward))
    return pipe


def judge() -> Judge:
    """The independent judge.

    Raises:
        FileNotFoundError: If its weights aren't installed, with the stage that trains them.
    """
    folder = Path(zoo.__file__).parent / "emoji_judge"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            "this bench needs the weights of emoji-judge, which this installation lacks; train "
            "them: python -m fkdiff.zoo.train judge"
        )
    return load_judge(folder)


def models(*names: str) -> dict[str, str]:
    """Digests of bundled weights, for what results are kept beside."""
    return {name: zoo.digest(name) for name in ("emoji", "emoji-judge", *names)}


def adapter(pipe: Any, name: str = "emoji-rl") -> str:
    """Load the bundled RL-tuned adapter and leave the pipeline its base.

    Raises:
        FileNotFoundError: If it isn't installed, with the stage that trains it.
    """
    if name not in zoo.adapters():
        raise FileNotFoundError(
            f"this bench needs the adapter {name}, which this installation lacks; train it: "
            f"python -m fkdiff.zoo.train {name}"
        )
    pipe.load_lora_weights(zoo.path(name), adapter_name=name)
    pipe.disable_lora()
    return name


def fetched_art(art: Path = _ART) -> Path:
    """The art of the scenes, fetched by npm if it isn't in this folder.

    Raises:
        FileNotFoundError: If it can't be had.
    """
    from fkdiff.zoo.sprites import fetch

    try:
        return fetch(art)
    except (RuntimeError, OSError, CalledProcessError) as error:
        raise FileNotFoundError(f"this bench needs the art of the scenes: {error}") from error


def real_pictures(prompts: Sequence[str], seed: int, art: Path = _ART) -> Tensor:
    """Renders of what prompts say, (n, 3, 64, 64) in [0, 1]: the law that models should have.

    Arguments:
        prompts: Captions of scenes.
        seed: Of places and sizes.
        art: Where the art is kept; it is fetched by npm if it isn't there.

    Raises:
        FileNotFoundError: If the art can't be had.
    """
    from fkdiff.zoo.autoencoder import pictures
    from fkdiff.zoo.sprites import Sprites, load_art

    tarball = fetched_art(art)
    sprites, rng = Sprites(load_art(tarball)), np.random.default_rng(seed)
    images = [render(parse(prompt), sprites, rng) for prompt in prompts]
    return (pictures(images) + 1) / 2


@dataclass(frozen=True)
class Arm:
    """One way to draw: terms, particles a cloud, and what is called.

    Arguments:
        terms: Terms of the run.
        particles: K.
        call: Further arguments of the pipeline.
        settings: Further settings of `steer`.
    """

    terms: tuple[Any, ...] = ()
    particles: int = 1
    call: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Drawn:
    """One picture of each cloud, as the judge sees it, and what the clouds cost."""

    features: Tensor
    passed: list[bool]
    rewards: list[float]
    variances: list[float]
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class Clouds:
    """The clouds that every arm of a bench draws: the same prompts, seeds and judge.

    Arguments:
        pipe: The pipeline.
        eyes: The independent judge.
        prompts: One a cloud; clouds of a prompt that comes again have other seeds.
        seed: Of the first call.
        kept: Where finished calls are kept.
    """

    pipe: Any
    eyes: Judge
    prompts: Sequence[str]
    seed: int
    kept: Kept

    def draw(self, name: str, arm: Arm, reward: Any = None, named: str | None = None) -> Drawn:
        """Draw one picture for each prompt, each from a cloud of its own.

        Arguments:
            name: Of the arm; finished calls are kept under it.
            arm: How.
            reward: Reported on what is returned; None for none.
            named: The reward that is kept, where a term of the arm scores it already.
        """
        size = max(1, ROWS // arm.particles)
        calls = []
        for start in tqdm(range(0, len(self.prompts), size), desc=name, mininterval=5):
            make = partial(self._call, start, size, arm, reward, named)
            calls.append(self.kept.part(f"{name} {start}", make))
        rows = [row for call in calls for row in call["rows"]]
        return Drawn(
            features=torch.tensor([row["features"] for row in rows]),
            passed=[row["passed"] for row in rows],
            rewards=[row["reward"] for row in rows if "reward" in row],
            variances=[row["variance"] for row in rows],
            evaluations=sum(call["evaluations"] for call in calls),
            seconds=sum(call["seconds"] for call in calls),
        )

    def _call(
        self, start: int, size: int, arm: Arm, reward: Any, named: str | None
    ) -> dict[str, Any]:
        watched = named if reward is None else reward.name
        settings = {"monitor": [] if reward is None else [reward], **arm.settings}
        prompts = list(self.prompts[start : start + size])
        steered = steer(
            self.pipe, *arm.terms, particles=arm.particles, seed=self.seed + start, **settings
        )
        out = steered(prompts, output_type="pt", **arm.call)
        result, pictures = out.steering, torch.as_tensor(out.images).float()
        features = self.eyes.features(pictures).tolist()
        passed = self.eyes.passes(pictures, prompts)
        rows = []
        for i in range(len(prompts)):
            spreads = [float(t.variance[i]) for t in result.trace if t.variance is not None]
            row = {"features": features[i], "passed": passed[i], "variance": sum(spreads)}
            if watched is not None:
                row["reward"] = float(result.rewards[watched][i, result.selected[i, 0]])
            rows.append(row)
        cost = result.cost
        spent = {"evaluations": cost.denoiser_evaluations, "seconds": cost.seconds["total"]}
        return {"rows": rows, **spent}


def share(hits: Sequence[bool]) -> dict[str, float]:
    """A share with its standard error."""
    mean = sum(hits) / len(hits)
    return {"mean": mean, "se": math.sqrt(mean * (1 - mean) / len(hits))}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return {"mean": float(x.mean()), "se": float(x.std() / len(x) ** 0.5)}


def distances(found: Tensor, real: Tensor, seed: int = 0) -> dict[str, float]:
    r"""Kernel and Frechet distance of two sets of features, (n, d) each.

    The kernel distance is the unbiased squared MMD with $k(a, b) = (a \cdot b / d + 1)^3$ on
    standardised features, its standard error by 20 halves without replacement. Row i of both has
    the same caption, so that these pairs, more alike than others, stay out of it. The Frechet
    distance is in the 16 principal directions of the real features.
    """
    mean, sd = real.mean(0), real.std(0).clamp(min=1e-6)
    a, b = ((x.double() - mean) / sd for x in (found, real))
    generator, halves = torch.Generator().manual_seed(seed), []
    for _ in range(20):
        rows = torch.randperm(len(a), generator=generator)[: len(a) // 2]
        halves.append(_mmd(a[rows], b[rows]))
    spread = float(torch.tensor(halves).std())
    # Halves of n overlap; the error of the whole is about that of a half over root two.
    return {"mean": _mmd(a, b), "se": spread / math.sqrt(2), "frechet": _frechet(a, b)}


def _mmd(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    own = off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b))
    return float(own - 2 * off_diagonal(kernel(a, b)))


def _frechet(a: Tensor, b: Tensor, directions: int = 16) -> float:
    _, _, turn = torch.linalg.svd(b - b.mean(0), full_matrices=False)
    a, b = (x @ turn[:directions].T for x in (a, b))
    first, second = torch.cov(a.T), torch.cov(b.T)
    mixed = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    away = (a.mean(0) - b.mean(0)).square().sum()
    return float(away + first.trace() + second.trace() - 2 * mixed)

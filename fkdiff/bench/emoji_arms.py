"""What the benches on `emoji` share: arms, real pictures, distances, the independent judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fkdiff import zoo
from fkdiff.steering import steer
from fkdiff.zoo.judge import Judge, load_judge
from fkdiff.zoo.parse import parse
from fkdiff.zoo.render import render

__all__ = [
    "Arm",
    "Drawn",
    "adapter",
    "clouds_of",
    "distances",
    "emoji",
    "fetched_art",
    "judge",
    "real_pictures",
    "run_arm",
    "share",
    "summary",
]

_ART = Path("training/zoo/cache")


def clouds_of(count: int) -> list[str]:
    """So many prompts of the evaluation list, again from its start where it ends."""
    lines = zoo.prompts("eval")
    return [lines[i % len(lines)] for i in range(count)]


def emoji() -> Any:
    """The bundled pipeline, silent."""
    from diffusers import DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
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
    """One picture of each cloud, and what they cost."""

    images: list[Tensor] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    evaluations: int = 0
    seconds: float = 0.0

    @property
    def pictures(self) -> Tensor:
        """(n, 3, 64, 64) in [0, 1]."""
        return torch.stack(self.images)


def run_arm(
    pipe: Any,
    arm: Arm,
    prompts: Sequence[str],
    seed: int,
    words: str,
    reward: Any = None,
    named: str | None = None,
) -> Drawn:
    """Draw one picture for each prompt, each from a cloud of its own.

    Arguments:
        pipe: The pipeline.
        arm: How.
        prompts: One a cloud; clouds of a prompt that comes again have other seeds.
        seed: Of the first cloud.
        words: Shown beside the progress bar.
        reward: Reported on what is returned; None for none.
        named: The reward that is kept, where a term of the arm scores it already.
    """
    kept = named if reward is None else reward.name
    drawn, monitor = Drawn(), [] if reward is None else [reward]
    for index, prompt in enumerate(tqdm(prompts, desc=words, mininterval=5)):
        settings = {"monitor": monitor, **arm.settings}
        steered = steer(pipe, *arm.terms, particles=arm.particles, seed=seed + index, **settings)
        out = steered(prompt, output_type="pt", **arm.call)
        result = out.steering
        drawn.images.append(out.images[0].float())
        drawn.prompts.append(prompt)
        if kept is not None:
            drawn.rewards.append(float(result.rewards[kept][0, result.selected[0, 0]]))
        spreads = [float(t.variance[0]) for t in result.trace if t.variance is not None]
        drawn.variances.append(sum(spreads))
        drawn.evaluations += result.cost.denoiser_evaluations
        drawn.seconds += result.cost.seconds["total"]
    return drawn


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
    standardised features, its standard error by 20 halves without replacement; the Frechet
    distance is in the 16 principal directions of the real features.
    """
    mean, sd = real.mean(0), real.std(0).clamp(min=1e-6)
    a, b = ((x.double() - mean) / sd for x in (found, real))
    generator, halves = torch.Generator().manual_seed(seed), []
    for _ in range(20):
        rows = [torch.randperm(len(x), generator=generator)[: len(x) // 2] for x in (a, b)]
        halves.append(_mmd(a[rows[0]], b[rows[1]]))
    spread = float(torch.tensor(halves).std())
    # Halves of n overlap; the error of the whole is about that of a half over root two.
    return {"mean": _mmd(a, b), "se": spread / math.sqrt(2), "frechet": _frechet(a, b)}


def _mmd(a: Tensor, b: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    own = off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b))
    return float(own - 2 * kernel(a, b).mean())


def _frechet(a: Tensor, b: Tensor, directions: int = 16) -> float:
    _, _, turn = torch.linalg.svd(b - b.mean(0), full_matrices=False)
    a, b = (x @ turn[:directions].T for x in (a, b))
    first, second = torch.cov(a.T), torch.cov(b.T)
    mixed = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    away = (a.mean(0) - b.mean(0)).square().sum()
    return float(away + first.trace() + second.trace() - 2 * mixed)

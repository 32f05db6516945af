"""What the benches on `emoji` share: its models, real pictures, arms and their measures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import torch
from accelerate.utils import convert_outputs_to_fp32
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from fkdiff import Steered, Tilt, steer, zoo
from fkdiff.bench.kept import Kept
from fkdiff.bench.tables import share, summary
from fkdiff.zoo.autoencoder import pictures
from fkdiff.zoo.judge import Judge, load_judge
from fkdiff.zoo.parse import parse
from fkdiff.zoo.render import render
from fkdiff.zoo.sprites import Sprites, fetch, load_art

__all__ = [
    "Clouds",
    "adapter",
    "clouds_of",
    "distances",
    "emoji",
    "fetched_art",
    "judge",
    "models",
    "real_pictures",
    "stock_emoji",
]

ROWS = 32  # particles of one call: clouds are drawn together while they are few


def clouds_of(count: int) -> list[str]:
    """So many prompts of the evaluation list, from its start again where it ends."""
    return list(islice(cycle(zoo.prompts("eval")), count))


def stock_emoji() -> Any:
    """The bundled pipeline without a progress bar."""
    pipe: Any = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def emoji() -> Any:
    """The bundled pipeline; its U-Net computes in bfloat16 and predicts in float32."""
    pipe = stock_emoji()
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
    """Digests of bundled weights, for the settings of `Kept`."""
    return {name: zoo.digest(name) for name in ("emoji", "emoji-judge", *names)}


def adapter(pipe: Any) -> str:
    """Load the bundled RL-tuned adapter, switched off; returns its name.

    Raises:
        FileNotFoundError: If it isn't installed, with the stage that trains it.
    """
    name = "emoji-rl"
    if name not in zoo.adapters():
        raise FileNotFoundError(
            f"this bench needs the adapter {name}, which this installation lacks; train it: "
            f"python -m fkdiff.zoo.train {name}"
        )
    pipe.load_lora_weights(zoo.path(name), adapter_name=name)
    pipe.disable_lora()
    return name


def fetched_art() -> Path:
    """The art of the scenes, fetched by npm if it isn't in the cache.

    Raises:
        FileNotFoundError: If it can't be had.
    """
    try:
        return fetch(Path("training/zoo/cache"))
    except (RuntimeError, OSError, CalledProcessError) as error:
        raise FileNotFoundError(f"this bench needs the art of the scenes: {error}") from error


def real_pictures(prompts: Sequence[str], seed: int) -> Tensor:
    """Renders of what prompts say, (n, 3, 64, 64) in [0, 1]: the law that models should have."""
    sprites, rng = Sprites(load_art(fetched_art())), np.random.default_rng(seed)
    images = [render(parse(prompt), sprites, rng) for prompt in prompts]
    return (pictures(images) + 1) / 2


@dataclass(frozen=True)
class Clouds:
    """The clouds that every arm of a bench draws: the same prompts, seeds and judge."""

    pipe: Any
    eyes: Judge
    prompts: Sequence[str]  # one a cloud; clouds of a prompt that comes again have other seeds
    seed: int  # of the first call
    kept: Kept
    reward: Any = None  # measured on what is returned
    reference: Tensor | None = None  # features of real pictures (n, d), from which distances are

    def measured(
        self,
        name: str,
        terms: Sequence[Any],
        particles: int,
        call: dict[str, Any],
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Draws one picture for each prompt, each from a cloud of its own, and measures them.

        Finished calls are kept under the arm's name; `call` and `settings` are further arguments
        of the pipeline and of `steer`.

        Returns:
            `pass_rate`; `reward` and `distance` where there is something to measure them by;
            `logw_var`, variance of the log-weights' increments, summed over a run; `nfe` and
            `seconds` a picture.
        """
        scored = self.reward is None or any(isinstance(term, Tilt) for term in terms)
        settings = {"monitor": [] if scored else [self.reward], **settings}
        size, count, calls = max(1, ROWS // particles), len(self.prompts), []
        for start in tqdm(range(0, count, size), desc=name, mininterval=5):
            seeded = {**settings, "seed": self.seed + start}
            steered = steer(self.pipe, *terms, particles=particles, **seeded)
            make = partial(self._call, steered, self.prompts[start : start + size], call)
            calls.append(self.kept.part(f"{name} {start}", make))
        rows = [row for call in calls for row in call["rows"]]
        found: dict[str, Any] = {"pass_rate": share([row["passed"] for row in rows])}
        if self.reward is not None:
            found["reward"] = summary([row["reward"] for row in rows])
        if self.reference is not None:
            features = torch.tensor([row["features"] for row in rows])
            found["distance"] = distances(features, self.reference, self.seed)
        found["logw_var"] = summary([row["variance"] for row in rows])
        found["nfe"] = sum(call["evaluations"] for call in calls) / count
        found["seconds"] = sum(call["seconds"] for call in calls) / count
        return found

    def _call(
        self, steered: Steered, prompts: Sequence[str], call: dict[str, Any]
    ) -> dict[str, Any]:
        out = steered(list(prompts), output_type="pt", **call)
        result, pictures = out.steering, torch.as_tensor(out.images).float()
        features = self.eyes.features(pictures).tolist()
        passed = self.eyes.passes(pictures, prompts)
        rows = []
        for i in range(len(prompts)):
            spreads = [float(t.variance[i]) for t in result.trace if t.variance is not None]
            row = {"features": features[i], "passed": passed[i], "variance": sum(spreads)}
            if self.reward is not None:
                values = result.rewards[self.reward.name][i]
                row["reward"] = float(values[result.selected[i, 0]])
            rows.append(row)
        spent = result.cost.denoiser_evaluations, result.cost.seconds["total"]
        return {"rows": rows, "evaluations": spent[0], "seconds": spent[1]}


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

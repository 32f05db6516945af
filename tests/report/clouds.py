"""Invented results of every shape that a run can leave."""

import math

import torch

from fkdiff.result import Cost, Result, Trace


def scene(width, generator):
    """A disc on a ground: a stand-in for a picture, (3, width, width)."""
    ground, disc = torch.rand(2, 3, 1, 1, generator=generator)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, width)] * 2, indexing="ij")
    centre = torch.rand(2, generator=generator) - 0.5
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 0.2
    return torch.where(inside, disc, ground)


def invented(
    prompts=("a cat and a pizza on a blue background",),
    particles=8,
    steps=30,
    width=64,
    samples="images",
    complete=True,
    plain=False,
    seed=0,
):
    """A plausible result without a model behind it."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(prompts), particles)
    level = torch.randn(shape, generator=g, dtype=torch.float64)
    log_w = torch.zeros(shape, dtype=torch.float64)
    rows, trace = [], []
    for index in range(steps if complete else steps // 2):
        level = level + 0.25 * torch.randn(shape, generator=g, dtype=torch.float64) + 0.02
        log_w = log_w + 0.12 * level
        weights = torch.softmax(log_w, 1)
        ess = 1 / weights.square().sum(1)
        fires = (ess < particles / 2) & (not plain)
        parents = torch.arange(shape[0] * particles).reshape(shape)
        for p in torch.nonzero(fires).flatten().tolist():
            drawn = torch.multinomial(weights[p], particles, replacement=True, generator=g)
            parents[p] = drawn.sort().values + p * particles
            level[p] = level[p][drawn.sort().values]
            log_w[p] = torch.logsumexp(log_w[p], 0) - math.log(particles)
        rows.append(parents.flatten() if fires.any() else None)
        seen = {"emoji-clip": level.clone()} if 5 < index < 28 and not plain else {}
        trace.append(Trace(index, 0.5, 0.5, ess, fires, seen))
    drawn = {
        "images": lambda: torch.stack(
            [scene(width, g) for _ in range(shape[0] * particles)]
        ).reshape(*shape, 3, width, width),
        "video": lambda: torch.rand(*shape, 5, 3, 8, 8, generator=g),
        "audio": lambda: torch.rand(*shape, 2, 32, generator=g),
        "none": lambda: None,
    }
    twist = torch.zeros_like(level) if plain else 2 * level
    return Result(
        prompts=list(prompts),
        latents=torch.randn(*shape, 4, 8, 8, generator=g),
        samples=drawn[samples](),
        log_w=torch.zeros_like(log_w) if plain else log_w,
        rewards={"emoji-clip": level - 1.2 * plain, "brightness": torch.rand(shape, generator=g)},
        log_twist=twist,
        rows=rows,
        trace=trace,
        selected=torch.argsort(twist, 1, descending=True)[:, :1],
        target="law of the chain times exp(2 * (emoji-clip - 0.2) / 0.05)",
        settings={
            "pipeline": "StableDiffusionPipeline",
            "scheduler": "DDIMScheduler",
            "model": "some/model",
            "particles": particles,
            "terms": ["Tilt(reward=Brightness(), scale=2.0, potential='difference')"],
            "resample": "Resample(scheme='systematic', ess=0.5, window=(0.2, 0.9), every=None)",
            "stochastic": None,
            "micro_batch": None,
            "monitor": ["brightness"],
            "select": "best",
            "call": {
                "prompt": list(prompts),
                "num_inference_steps": steps,
                "guidance_scale": 4.0,
                "num_images_per_prompt": particles,
            },
            "versions": {"torch": "2.9.0"},
            "replaced_step": None,
        },
        seed=7,
        cost=Cost(
            2 * particles * steps,
            0 if plain else 160,
            {"emoji-clip": 160},
            {"total": 12.3, "denoise": 10.1, "decode": 1.2, "reward": 0.8},
            912.0,
        ),
        complete=complete,
    )

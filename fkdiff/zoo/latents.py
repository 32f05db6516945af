"""Recipe of the cached data: captioned scenes as latents, encoded once for many passes."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from tqdm import tqdm

from fkdiff.zoo.autoencoder import encode, pictures
from fkdiff.zoo.scenes import Sprite, render, sample_scene
from fkdiff.zoo.vocabulary import LENGTH, build_tokenizer

__all__ = ["CHUNK", "LatentData", "cache_latents"]

CHUNK = 500
"""Scenes drawn from one seed."""


@dataclass(frozen=True)
class LatentData:
    """Latents (n, 4, 16, 16) float16 of unit deviation, and their captions' tokens (n, 24)."""

    latents: NDArray[np.float16]
    tokens: NDArray[np.int64]
    scale: float

    @classmethod
    def load(cls, folder: Path) -> "LatentData":
        """Reads what `cache_latents` wrote; the latents stay on disk."""
        count = json.loads((folder / "latents.json").read_text())
        latents = np.load(folder / "latents.npy", mmap_mode="r")[: count["scenes"]]
        tokens = np.load(folder / "tokens.npy")[: count["scenes"]].astype(np.int64)
        return cls(latents, tokens, count["scale"])


def _open(file: Path, shape: tuple[int, ...], dtype: type, keep: int) -> np.memmap:
    """An array on disk whose first `keep` rows are those that the file has."""
    if keep and file.exists():
        found = np.load(file, mmap_mode="r+")
        if found.shape == shape:
            return found
        kept = np.array(found[:keep])
    else:
        kept = np.empty((0, *shape[1:]), dtype)
    made = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    made[: len(kept)] = kept
    return made


def _scale(model: AutoencoderTiny, sprites: Sprite) -> float:
    """One over the standard deviation of the latents, from scenes that training doesn't use."""
    rng = np.random.default_rng(2**32)
    x = pictures([render(sample_scene(rng), sprites, rng) for _ in range(CHUNK)])
    return float(1 / encode(model, x).std())


def cache_latents(
    model: AutoencoderTiny, sprites: Sprite, scenes: int, folder: Path, *, seed: int, resume: bool
) -> LatentData:
    """Draws and encodes training scenes in chunks, each from its own seed.

    Arguments:
        model: The autoencoder, its encoder final.
        sprites: The art.
        scenes: How many; rounded up to whole chunks.
        folder: Where the arrays go.
        seed: Of the scenes.
        resume: Keep the chunks that are there, of a run of fewer scenes too.
    """
    chunks = -(-scenes // CHUNK)
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "latents.json"
    done, scale = 0, None
    if resume and note.exists():
        found = json.loads(note.read_text())
        done, scale = found["scenes"] // CHUNK, found["scale"]
    scale = _scale(model, sprites) if scale is None else scale
    size, keep = chunks * CHUNK, done * CHUNK
    latents = _open(folder / "latents.npy", (size, 4, 16, 16), np.float16, keep)
    tokens = _open(folder / "tokens.npy", (size, LENGTH), np.int16, keep)
    tokenizer = build_tokenizer()
    for chunk in tqdm(range(done, chunks), desc="latents", mininterval=5):
        rng = np.random.default_rng([seed, chunk])
        drawn = [sample_scene(rng) for _ in range(CHUNK)]
        rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        images = [render(scene, sprites, rng) for scene in drawn]
        batches = [pictures(images[i : i + 50]) for i in range(0, CHUNK, 50)]
        z = torch.cat([encode(model, batch) for batch in batches]) * scale
        latents[rows] = z.numpy()
        captions = [scene.caption for scene in drawn]
        tokens[rows] = tokenizer(captions, padding="max_length", truncation=True).input_ids
        latents.flush()
        tokens.flush()
        note.write_text(json.dumps({"scenes": (chunk + 1) * CHUNK, "scale": scale}))
    return LatentData.load(folder)

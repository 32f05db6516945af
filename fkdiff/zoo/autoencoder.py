"""Recipe of the autoencoder: 64x64 RGB to 16x16x4 latents and back."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.render import CELL, Sprite, render
from fkdiff.zoo.scenes import sample_scene

__all__ = ["AutoencoderTask", "autoencoder", "encode", "fit_encoder", "pictures"]

_SPREAD = 0.6  # the decoder squashes what is far beyond 3
_NOISE = 0.05
_PATCH = 3 * CELL * CELL
_BUSY = {"single": 0.2, "pair": 0.2, "three": 0.15, "four": 0.2, "binding": 0.15, "count": 0.1}


def autoencoder() -> AutoencoderTiny:
    """An untrained autoencoder of 0.4 M parameters, 4 pixels a latent cell and 4 channels.

    The encoder has no nonlinearity: `fit_encoder` sets it, and only the decoder learns.
    """
    return AutoencoderTiny(
        encoder_block_out_channels=(_PATCH,) * 3,
        num_encoder_blocks=(0, 0, 0),
        decoder_block_out_channels=(32,) * 3,
        num_decoder_blocks=(8, 3, 0),
        latent_channels=4,
    )


def pictures(arrays: list[np.ndarray]) -> Tensor:
    """Rendered scenes as a batch, (n, 3, 64, 64) in [-1, 1], channels last in memory."""
    batch = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return batch.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def _patches(x: Tensor) -> Tensor:
    """Cells of 4x4 pixels as rows (n, 48) in the order in which the encoder stacks them."""
    # Two strided convolutions of 2x2 pixels each: outer offset, inner offset, colour.
    x = x.unflatten(2, (-1, 2, 2)).unflatten(5, (-1, 2, 2))  # n c I oy iy J ox ix
    return x.permute(0, 2, 5, 3, 6, 4, 7, 1).reshape(-1, _PATCH)


@torch.no_grad()
def fit_encoder(model: Any, x: Tensor) -> None:
    r"""Set the encoder to the first four principal components of the cells of 4x4 pixels.

    Latents are then a thumbnail of the picture with a hint of its edges: linear, so that a
    denoiser learns them in far fewer scenes than a trained encoder's, and final before anything
    is trained. Each component $c$ of deviation $s$ is divided by $\sqrt{s}$: half whitened, so
    that noise hides fine structure before coarse.

    Arguments:
        model: An `autoencoder`.
        x: Pictures, shape (n, 3, 64, 64), in [-1, 1].
    """
    cells = _patches((x + 1) / 2).double()
    mean = cells.mean(0)
    _, spread, axes = torch.linalg.svd(cells - mean, full_matrices=False)
    scale = (spread[:4] / len(cells) ** 0.5).rsqrt()
    axes = axes[:4] * torch.sign(axes[:4].sum(1, keepdim=True)) * scale[:, None]
    axes *= _SPREAD / ((cells - mean) @ axes.T).std()
    layers = model.encoder.layers
    for layer in layers:
        layer.weight.zero_()
    layers[0].bias.zero_()
    for c in range(3):
        layers[0].weight[c, c, 1, 1] = 1
    for size, layer in ((3, layers[1]), (12, layers[2])):
        for place in range(4):
            for c in range(size):
                layer.weight[size * place + c, c, 1 + place // 2, 1 + place % 2] = 1
    layers[3].weight[:, :, 1, 1] = axes.to(x)
    layers[3].bias.copy_(-(axes @ mean).to(x))


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


class AutoencoderTask:
    """Loss of the decoder on fresh scenes; the encoder is fitted at once and stands still.

    Arguments:
        sprites: The art.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        batch: Pictures a step.
        scenes: How many pictures the encoder is fitted to.
    """

    def __init__(
        self, sprites: Sprite, fit: Fit, folder: Path, batch: int = 8, scenes: int = 1000
    ) -> None:
        torch.manual_seed(fit.seed)
        self.sprites, self.batch, self.device = sprites, batch, fit.device
        self.model: Any = autoencoder()
        rng = np.random.default_rng(2**32 + fit.seed)
        fit_encoder(self.model, pictures([self._scene(rng) for _ in range(scenes)]))
        self.model.encoder.requires_grad_(False)
        self.model.to(memory_format=torch.channels_last)
        self.trainer = Trainer(nn.ModuleDict({"vae": self.model}), self.loss, fit, folder)

    def _scene(self, rng: np.random.Generator) -> np.ndarray:
        return render(sample_scene(rng, split="all", mix=_BUSY), self.sprites, rng)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """L1 + 2 MSE + L1 of the edges of one batch."""
        x = pictures([self._scene(draws.rng) for _ in range(self.batch)]).to(self.device)
        with torch.no_grad():
            z = encode(self.model, x)
        # A denoiser's small errors must not show.
        y = self.model.decode(z + _NOISE * draws.normal(*z.shape).to(z)).sample.float()
        error = y - x
        sharp = sum(edge.abs().mean() for edge in _edges(error))
        return error.abs().mean() + 2 * error.square().mean() + sharp


@torch.no_grad()
def encode(model: Any, x: Tensor) -> Tensor:
    """Latents, (n, 4, 16, 16), unscaled."""
    return model.encode(x).latents

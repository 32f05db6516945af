"""Recipe of `emoji`: the denoiser and the text encoder, trained together on cached latents."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from fkdiff.zoo.latents import LatentData
from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.vocabulary import LENGTH, build_tokenizer

__all__ = ["DenoiserTask", "denoiser", "scheduler", "text_encoder"]

_WIDTH = 128
_DROP = 0.1
_SHORT = 8
"""Tokens of "a red fish on a white background" with its start."""


def denoiser() -> UNet2DConditionModel:
    """An untrained U-Net of 10.5 M parameters on 16x16 latents, text attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder() -> CLIPTextModel:
    """An untrained text encoder of 0.45 M parameters."""
    tokenizer: Any = build_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=4 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def scheduler() -> DDIMScheduler:
    """Velocity prediction on 1,000 steps that end at a signal of 0.016: nearly pure noise.

    A signal of exactly zero would leave alpha / sigma undefined for samplers that need it.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class DenoiserTask:
    """Velocity loss of the denoiser given captions, a tenth of them dropped for guidance.

    Arguments:
        data: Cached latents and tokens.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        batch: Latents a step.
    """

    def __init__(self, data: LatentData, fit: Fit, folder: Path, batch: int = 32) -> None:
        torch.manual_seed(fit.seed)
        self.data, self.batch = data, batch
        self.unet: Any = denoiser()
        self.unet.to(memory_format=torch.channels_last)
        # The fused attention's backward pass is several times slower on a CPU.
        self.unet.set_attn_processor(AttnProcessor())
        self.text = text_encoder()
        modules = nn.ModuleDict({"unet": self.unet, "text_encoder": self.text})
        self.device = fit.device
        self.alphas = scheduler().alphas_cumprod
        empty = build_tokenizer()("", padding="max_length").input_ids
        self.empty = torch.tensor(empty)
        # Captions of one noun teach what a word looks like; a share of each batch is drawn there.
        lengths = (data.tokens != empty[-1]).sum(1)
        self.short = np.flatnonzero(lengths <= _SHORT)
        self.trainer = Trainer(modules, self.loss, fit, folder)

    def _short_share(self, step: int) -> float:
        """Words first, then sentences: from three quarters to a quarter over half the run."""
        return max(0.25, 0.75 - step / self.trainer.fit.steps)

    def _times(self, draws: Draws) -> Tensor:
        """Step indices, (batch,), uniform: places form at high noise, lines at low."""
        # Stratified over the batch: the loss depends on the time more than on anything else.
        spread = (torch.arange(self.batch) + draws.uniform(self.batch)) / self.batch
        return (spread * len(self.alphas)).long().clamp_(max=len(self.alphas) - 1)

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Mean squared error of the velocity on one batch."""
        n = round(self.batch * self._short_share(step))
        rows = draws.rng.integers(0, len(self.data.tokens), self.batch)
        rows[:n] = draws.rng.choice(self.short, n)
        draws.rng.shuffle(rows)
        x0 = torch.from_numpy(self.data.latents[rows]).float()
        tokens = torch.from_numpy(self.data.tokens[rows])
        dropped = draws.uniform(self.batch, 1) < _DROP
        tokens = torch.where(dropped, self.empty, tokens).to(self.device)
        text = self.text(tokens).last_hidden_state
        times = self._times(draws)
        alpha = self.alphas[times].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - self.alphas[times]).sqrt().view(-1, 1, 1, 1)
        noise = draws.normal(*x0.shape)
        x = (alpha * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        velocity = self.unet(x.to(self.device), times.to(self.device), text).sample
        return (velocity - (alpha * noise - sigma * x0).to(self.device)).square().mean()

"""Recipe of `emoji-clip`: a dual encoder in open_clip's format, trained with hard negatives."""

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.zoo.autoencoder import encode, pictures
from fkdiff.zoo.loop import Draws, Fit, Trainer
from fkdiff.zoo.negatives import hard_negatives, wrong_captions
from fkdiff.zoo.scenes import KINDS, NEVER_HELD_OUT, Split, Sprite, render, sample_scene
from fkdiff.zoo.vocabulary import LENGTH, build_tokenizer
from fkdiff.zoo.words import unknown_words

__all__ = ["CONFIG", "DualEncoderTask", "retrieval"]

CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 24},
    "text_cfg": {
        "context_length": LENGTH,
        "vocab_size": len(build_tokenizer()),
        "hf_tokenizer_name": "emoji-clip",
        "width": 128,
        "heads": 4,
        "layers": 2,
        "pool_type": "argmax",
    },
}
"""open_clip's model settings; its residual network, since attention over patches learns slower."""

# Sides, numbers and bindings are learnt last, so they get more than their share in the scenes.
_MIX = KINDS | {"relation": 0.8, "count": 0.25, "binding": 0.3}
_WRONG = 3
_MAX_LOGIT_SCALE = 4.6052


def _blur(x: Tensor, draws: Draws) -> Tensor:
    """The pictures shrunk to a random size and enlarged again."""
    side = int(draws.rng.integers(12, 48))
    small = F.interpolate(x, size=side, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[-1], mode="bilinear")


class DualEncoderTask:
    """Contrastive loss on fresh scenes, each with wrong captions of its own.

    The reward is asked about blurred estimates in the middle of a run, so half of the pictures
    are blurred, noisy, or have been through the autoencoder with disturbed latents.

    Arguments:
        sprites: The art.
        vae: The autoencoder of `emoji`; None leaves its round trip out.
        fit: Settings of the run.
        folder: Where the checkpoint goes.
        batch: Pictures a step, a multiple of 8.
    """

    def __init__(
        self, sprites: Sprite, vae: AutoencoderTiny | None, fit: Fit, folder: Path, batch: int = 64
    ) -> None:
        torch.manual_seed(fit.seed)
        self.sprites, self.batch, self.device = sprites, batch, fit.device
        self.vae: Any = vae
        self.model: Any = CLIP(**CONFIG)
        self.model.visual.to(memory_format=torch.channels_last)
        self.tokenizer = build_tokenizer()
        self.trainer = Trainer(nn.ModuleDict({"clip": self.model}), self.loss, fit, folder)

    def _disturb(self, x: Tensor, draws: Draws) -> Tensor:
        n = self.batch // 8
        views = list(x.split(n))
        views[0], views[1] = _blur(views[0], draws), _blur(views[1], draws)
        views[2] = views[2] + 0.3 * draws.uniform(n, 1, 1, 1) * draws.normal(*views[2].shape)
        if self.vae is not None:
            with torch.no_grad():
                z = encode(self.vae, views[3])
                noise = z.std() * draws.normal(*z.shape)
                views[3] = self.vae.decode(z + 0.6 * draws.uniform(n, 1, 1, 1) * noise).sample
        return torch.cat(views).clamp(-1, 1)

    def _encode_text(self, texts: list[str]) -> Tensor:
        """What `encode_text` gives, without the work on padding that a causal mask hides."""
        ids = torch.tensor(
            self.tokenizer(texts, padding=True, truncation=True).input_ids, device=self.device
        )
        clip, n = self.model, ids.shape[1]
        x = clip.token_embedding(ids) + clip.positional_embedding[:n]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:n, :n]))
        return x[torch.arange(len(ids), device=self.device), ids.argmax(-1)] @ clip.text_projection

    def loss(self, step: int, draws: Draws) -> Tensor:
        """Cross entropies: picture to all captions, to its own wrong ones, caption to picture."""
        scenes = [sample_scene(draws.rng, mix=_MIX) for _ in range(self.batch)]
        x = pictures([render(scene, self.sprites, draws.rng) for scene in scenes])
        right = [scene.caption for scene in scenes]
        wrong = [hard_negatives(scene, draws.rng, _WRONG) for scene in scenes]
        texts = right + [text for row in wrong for text in row]
        x = self._disturb(x, draws).to(self.device)
        x = x.contiguous(memory_format=torch.channels_last)
        image = F.normalize(self.model.encode_image(x).float(), dim=-1)
        text = F.normalize(self._encode_text(texts).float(), dim=-1)
        scale = self.model.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()
        return self._contrast((scale * image @ text.T).float(), texts)

    def _contrast(self, logits: Tensor, texts: list[str]) -> Tensor:
        n = len(logits)
        own = torch.arange(n, device=logits.device)
        # Another picture's caption that reads the same is not wrong.
        names = np.array(texts)
        same = torch.from_numpy(names[:n, None] == names[None, :]).to(logits.device)
        same[own, own] = False
        logits = logits.masked_fill(same, -torch.inf)
        mine = logits[:, n:].reshape(n, n, _WRONG)[own, own]
        hard = torch.cat([logits[own, own, None], mine], 1)
        zero = torch.zeros(n, dtype=torch.long, device=logits.device)
        return (
            F.cross_entropy(logits, own)
            + F.cross_entropy(hard, zero)
            + F.cross_entropy(logits[:, :n].T, own)
        ) / 3


def _recipe_tokens(texts: list[str]) -> Tensor:
    return torch.tensor(build_tokenizer()(texts, padding="max_length").input_ids)


@torch.inference_mode()
def retrieval(
    model: CLIP,
    sprites: Sprite,
    *,
    tokenize: Callable[[list[str]], Tensor] | None = None,
    known: Set[str] | None = None,
    split: Split = "all",
    scenes: int = 200,
    seed: int = 1,
) -> dict[str, float]:
    """Share of right captions preferred over each sort of wrong one, and over all ("KIND/all").

    Arguments:
        model: The dual encoder, in evaluation mode.
        sprites: The art.
        tokenize: Its texts to token indices (n, 24); the recipe's own by default.
        known: The words that it has seen: kinds that need others are left out.
        split: Of the scenes; kinds that this split doesn't have are left out.
        scenes: How many of each kind.
        seed: Of the scenes.
    """
    rng = np.random.default_rng([seed, 77])
    tokenize = tokenize or _recipe_tokens
    won: dict[str, list[bool]] = {}
    for kind in KINDS:
        if split == "held_out" and kind in NEVER_HELD_OUT:
            continue
        for _ in range(scenes):
            scene = sample_scene(rng, split=split, kind=kind)
            if known is not None and unknown_words(scene.caption, frozenset(known)):
                break
            wrong = wrong_captions(scene, rng)
            ids = tokenize([scene.caption, *wrong.values()])
            image = F.normalize(
                model.encode_image(pictures([render(scene, sprites, rng)])), dim=-1
            )
            score = (F.normalize(model.encode_text(ids), dim=-1) @ image.T)[:, 0]
            for what, value in zip(wrong, score[1:], strict=True):
                won.setdefault(f"{kind}/{what}", []).append(bool(score[0] > value))
            won.setdefault(f"{kind}/all", []).append(bool(score[0] > score[1:].max()))
    return {key: round(float(np.mean(values)), 3) for key, values in won.items()}

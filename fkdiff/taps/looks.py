r"""What image cells look at in one attention layer: $\mathrm{softmax}(Q K^\top / \sqrt d)$."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Looks", "attention_layers", "looks", "reads_text"]


@dataclass(frozen=True)
class Looks:
    """Attention of image cells, mean over heads.

    Arguments:
        text: To each text token, (n, cells, tokens); None in a layer of self-attention.
        own: To each cell, (n, cells, cells); None in a layer of cross-attention, or where there
            are too many cells.
    """

    text: Tensor | None
    own: Tensor | None


def attention_layers(network: nn.Module, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Layers with queries and keys of image cells, by name.

    Arguments:
        network: A denoiser.
        names: Parts of names to choose by; None chooses all.
    """
    found = {}
    for name, module in network.named_modules():
        readable = all(hasattr(module, part) for part in ("to_q", "to_k", "heads"))
        wanted = names is None or any(part in name for part in names)
        linear = "Linear" in type(getattr(module, "processor", None)).__name__  # no softmax
        if linear:
            continue
        if readable and wanted and isinstance(module.to_q, nn.Module):  # not where fused
            found[name] = module
    return found


def looks(layer: Any, arguments: dict[str, Any], most: int) -> Looks | None:
    """What image cells look at in a layer that is about to be called, None if it can't be told.

    Arguments:
        layer: A layer of `attention_layers`.
        arguments: What it is called with, rows of interest alone.
        most: Cells up to which self-attention is computed.
    """
    hidden, text = arguments["hidden_states"], arguments.get("encoder_hidden_states")
    if hidden.ndim != 3:
        return None
    if text is not None and getattr(layer, "add_k_proj", None) is not None:
        return _joint(layer, hidden, text, arguments.get("image_rotary_emb"), most)
    if arguments.get("image_rotary_emb") is not None:
        return None  # Flux's single blocks: text and image in one sequence
    query = _heads(layer.to_q(hidden), layer, "norm_q")
    if text is None:
        if hidden.shape[1] > most:
            return None
        own = _softmax(query, _heads(layer.to_k(hidden), layer, "norm_k"), None)
        return Looks(None, own)
    if getattr(layer, "norm_cross", None):
        text = layer.norm_encoder_hidden_states(text)
    key = _heads(layer.to_k(text), layer, "norm_k")
    return Looks(_softmax(query, key, arguments.get("attention_mask")), None)


def _joint(layer: Any, hidden: Tensor, text: Tensor, rotary: Any, most: int) -> Looks:
    """The image's rows of a joint softmax over text and image."""
    query = _heads(layer.to_q(hidden), layer, "norm_q")
    image_key = _heads(layer.to_k(hidden), layer, "norm_k")
    text_key = _heads(layer.add_k_proj(text), layer, "norm_added_k")
    if rotary is not None:  # Flux: text stands first
        from diffusers.models.embeddings import apply_rotary_emb

        words = text.shape[1]
        padded = torch.cat([torch.zeros_like(text_key), query], 2)
        query = apply_rotary_emb(padded, rotary)[:, :, words:]  # pyright: ignore
        whole = apply_rotary_emb(torch.cat([text_key, image_key], 2), rotary)
        text_key, image_key = whole[:, :, :words], whole[:, :, words:]  # pyright: ignore
    seen = _softmax(query, torch.cat([text_key, image_key], 2), None)
    words = text.shape[1]
    own = seen[:, :, words:] if hidden.shape[1] <= most else None
    return Looks(seen[:, :, :words], own)


def _heads(x: Tensor, layer: Any, norm: str) -> Tensor:
    """Projections as (n, heads, length, width), normalised as the layer does."""
    heads = x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    normalise = getattr(layer, norm, None)
    return heads if normalise is None else normalise(heads)


def _softmax(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Attention, mean over heads, (n, cells, keys), float32; a row and a head at a time."""
    scale, rows = 1 / math.sqrt(query.shape[-1]), []
    for row, (q, k) in enumerate(zip(query, key, strict=True)):
        total = torch.zeros(q.shape[1], k.shape[1], dtype=torch.float32, device=q.device)
        for one, other in zip(q, k, strict=True):
            scores = (one @ other.T).float() * scale
            if mask is not None:
                scores = scores + mask[row].float().reshape(-1, scores.shape[1])
            total += scores.softmax(-1)
        rows.append(total / len(q))
    return torch.stack(rows)


def reads_text(layer: Any) -> bool:
    """Whether a layer looks from the image at text."""
    if getattr(layer, "add_k_proj", None) is not None:
        return True
    return bool(getattr(layer, "is_cross_attention", False))

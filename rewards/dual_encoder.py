"""Dual encoders of open_clip: found by name without loading, loaded from any of its sources."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.preprocess import ImageSettings, preprocess
from fkdiff.rewards.weights import loading
from fkdiff.terms.reward_function import RewardError

__all__ = ["DualEncoder", "Found", "find_encoder", "load_encoder"]

_LOCAL, _HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class Found:
    """What a model name stands for: where open_clip finds it, and its constants."""

    name: str
    location: str
    pretrained: str | None = None
    mean: float = 0.0
    sd: float = 1.0
    bundled: bool = False

    @property
    def weights(self) -> str:
        """Where the weights lie: a path, "hf-hub:owner/name" or "zoo:name"."""
        if self.bundled:
            return f"zoo:{self.name}"
        if self.pretrained is None or Path(self.pretrained).is_file():
            return self.pretrained or self.location.removeprefix(_LOCAL)
        from open_clip import get_pretrained_cfg

        stated = get_pretrained_cfg(self.location, self.pretrained)
        hub = str(stated.get("hf_hub", "")).strip("/")
        return f"{_HUB}{hub}" if hub else str(stated.get("url", ""))


class DualEncoder(nn.Module):
    """A loaded dual encoder of open_clip: maps images and prompts to their cosine similarity."""

    def __init__(self, model: nn.Module, tokenizer: Any, settings: ImageSettings) -> None:
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self._texts: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.texts([""])[0])

    def forward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of images (n, 3, h, w) and n prompts, row by row, shape (n,)."""
        return (self.images(pixels) * self.texts(prompts).to(pixels.device)).sum(dim=1)

    def images(self, pixels: Tensor) -> Tensor:
        """Unit features of images (n, 3, h, w), shape (n, d), float32."""
        features = self.encoded_images(preprocess(pixels, self.settings))
        return nn.functional.normalize(features.float(), dim=-1)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit features of prompts, each encoded once in the network's life, shape (n, d)."""
        for prompt in set(prompts) - set(self._texts):  # alone, so that no company rounds it
            with torch.no_grad():
                features = self.encoded_text(prompt)[0].float()
            self._texts[prompt] = nn.functional.normalize(features, dim=-1).cpu()
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def encoded_images(self, pixels: Tensor) -> Tensor:
        """Features of preprocessed images, shape (n, d)."""
        return self.model.encode_image(pixels)  # pyright: ignore

    def encoded_text(self, text: str) -> Tensor:
        """Features of a text, shape (1, d)."""
        return self.model.encode_text(self.tokenizer([text]).to(self.device))  # pyright: ignore


def find_encoder(model: str, pretrained: str | None = None) -> Found:
    """What a model name stands for; nothing is loaded.

    Arguments:
        model: "ARCHITECTURE/TAG" or an architecture of open_clip, "hf-hub:owner/name", a folder in
            open_clip's local format (also "local-dir:FOLDER"), or a model of the zoo.
        pretrained: For an architecture: a tag of open_clip, or a file of weights.

    Raises:
        RewardError: If the model is unknown, or an architecture comes without weights.

    Example:
        >>> find_encoder("hf-hub:owner/name").location
        'hf-hub:owner/name'
    """
    folder = Path(model.removeprefix(_LOCAL))
    if model.startswith(_HUB):
        found = Found(model, model)
    elif model.startswith(_LOCAL) or (folder / "open_clip_config.json").is_file():
        found = Found(folder.name, _checked_folder(folder))
    else:
        head, _, tag = model.rpartition("/")
        architectures = _architectures()
        if pretrained is None and head.replace("/", "-") in architectures:
            return _built_in(head.replace("/", "-"), tag)
        if model.replace("/", "-") in architectures:
            return _built_in(model.replace("/", "-"), pretrained)
        found = _from_zoo(model)
    if pretrained is not None:
        raise RewardError(
            f"pretrained={pretrained!r} names weights for an architecture, but {model!r} brings "
            "its own; leave pretrained out"
        )
    return found


def _checked_folder(folder: Path) -> str:
    config = folder / "open_clip_config.json"
    if not config.is_file():
        raise RewardError(f"'{folder}' is no open_clip folder: it has no open_clip_config.json")
    if "model_cfg" not in json.loads(config.read_text()):
        raise RewardError(f"'{config}' describes no model: it has no 'model_cfg'")
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pth")]:
        raise RewardError(f"'{folder}' has no weights; add open_clip_model.safetensors")
    return f"{_LOCAL}{folder}"


def _architectures() -> list[str]:
    """Names of open_clip's architectures, read from its files: importing it takes seconds."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise RewardError("OpenCLIP needs open_clip; install it: pip install open_clip_torch")
    return sorted(p.stem for p in (Path(spec.origin).parent / "model_configs").glob("*.json"))


def _built_in(architecture: str, pretrained: str | None) -> Found:
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none, so name a file"
    if pretrained is None:
        raise RewardError(
            f"OpenCLIP({architecture!r}) needs weights; give pretrained=, one of: {tags}"
        )
    if Path(pretrained).is_file():
        return Found(f"openclip:{architecture}/{Path(pretrained).stem}", architecture, pretrained)
    if not get_pretrained_cfg(architecture, pretrained):
        raise RewardError(
            f"pretrained={pretrained!r} is neither a file nor a tag of {architecture}; "
            f"its tags: {tags}"
        )
    return Found(f"openclip:{architecture}/{pretrained}", architecture, pretrained)


def _from_zoo(name: str) -> Found:
    from fkdiff import zoo

    try:
        path, card = zoo.path(name), zoo.card(name)
    except (LookupError, ValueError, OSError) as error:
        raise RewardError(
            f"OpenCLIP knows no model {name!r}; name an architecture of open_clip "
            "('ViT-B-32/openai'), 'hf-hub:owner/name', a folder with open_clip_config.json, or a "
            f"model of the zoo ({error})"
        ) from error
    stated = card.get("calibration", {})
    if not {"mean", "sd"} <= set(stated):
        raise RewardError(f"the card of {name!r} states no mean and sd of its similarity")
    location = _checked_folder(path)
    return Found(name, location, mean=stated["mean"], sd=stated["sd"], bundled=True)


def load_encoder(location: str, pretrained: str | None = None) -> DualEncoder:
    """Loads a `Found` model to the CPU: an architecture with a tag or file, or its own location.

    Raises:
        RewardError: If the weights can't be had or don't fit.
    """
    import open_clip

    tag = open_clip.get_pretrained_cfg(location, pretrained) if pretrained else {}
    # The activation that the weights were trained with: open_clip itself only warns.
    quick = bool(tag.get("quick_gelu", False))
    with loading(f"the weights of {location}"):
        model = open_clip.create_model(
            location, pretrained, force_quick_gelu=quick, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(location)
    settings = open_clip.get_model_preprocess_cfg(model)
    size = settings.get("size", 224)
    size = tuple(size) if isinstance(size, tuple | list) else size
    model.eval().requires_grad_(False)
    return DualEncoder(model, tokenizer, ImageSettings(**{**settings, "size": size}))

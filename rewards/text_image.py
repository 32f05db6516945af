"""Text-image agreement: how well an image shows what its prompt says, judged by a dual encoder."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.terms.reward_algebra import Composable, check_calibration
from fkdiff.terms.reward_function import RewardError

__all__ = ["OpenCLIP", "emoji_clip"]

_LOCAL, _HUB = "local-dir:", "hf-hub:"


class OpenCLIP(Composable):
    r"""Cosine similarity of image and prompt under any dual encoder that open_clip can load.

    $$ r(x, y) = \frac{\langle f(x), g(y) \rangle}{|f(x)| \, |g(y)|} \in [-1, 1] $$

    The constructor checks names and loads nothing: weights come with `prepare()` or the first
    call. Gradients flow to the images whenever these require them.

    Arguments:
        model: "ARCHITECTURE/TAG" or an architecture of open_clip, "hf-hub:owner/name", a folder in
            open_clip's local format (also "local-dir:FOLDER"), or a model of the zoo.
        pretrained: For an architecture: a tag of open_clip, or a file of weights.
        device: Where to run, None for the device of the first images.
        mean: Stated mean of the similarity, None for the zoo's constant, otherwise 0.
        sd: Stated standard deviation, None for the zoo's constant, otherwise 1.
        batch_size: Largest number of images encoded at once.

    Raises:
        RewardError: If the model is unknown, or an architecture comes without weights.

    References:
        | Learning transferable visual models from natural language supervision
        | (Radford et al., 2021) | https://arxiv.org/abs/2103.00020
        | OpenCLIP (Ilharco et al., 2021) | https://github.com/mlfoundations/open_clip

    Example:
        >>> reward = OpenCLIP("ViT-L-14", pretrained="openai")
        >>> reward
        OpenCLIP('ViT-L-14', pretrained='openai')
        >>> reward.name
        'openclip:ViT-L-14/openai'
    """

    inputs = "pixels"
    differentiable = True

    def __init__(
        self,
        model: str = "ViT-B-32/laion2b_s34b_b79k",
        pretrained: str | None = None,
        device: str | torch.device | None = None,
        mean: float | None = None,
        sd: float | None = None,
        batch_size: int = 32,
    ) -> None:
        self._asked = {"pretrained": pretrained, "device": device, "mean": mean, "sd": sd}
        self.model, self.device, self.batch_size = model, device, batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        found = _find(model, pretrained)
        self.name, self._location, self._pretrained = found.name, found.location, found.pretrained
        self.mean = found.mean if mean is None else mean
        self.sd = found.sd if sd is None else sd
        check_calibration(self.mean, self.sd)
        self._texts: dict[str, Tensor] = {}
        self._loaded: _Encoders | None = None

    def __call__(
        self, samples: Tensor, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Similarity of images (n, 3, h, w) in [0, 1] and n prompts, row by row, shape (n,)."""
        _check_prompts(prompts, len(samples), self.name)
        encoders = self._encoders(torch.device(self.device or samples.device))
        images = samples.to(encoders.device).split(self.batch_size)
        features = torch.cat([encoders.images(batch) for batch in images])
        return (features * self._text_features(encoders, prompts or [])).sum(dim=1)

    def prepare(self) -> None:
        """Loads the weights now, so that a missing download is told before a run starts."""
        self._encoders(torch.device(self.device or "cpu"))

    def to(self, device: str | torch.device) -> "OpenCLIP":
        """The same reward on another device; its weights are loaded anew."""
        asked = {**self._asked, "device": device}
        return OpenCLIP(self.model, **asked, batch_size=self.batch_size)

    def _encoders(self, device: torch.device) -> "_Encoders":
        """The encoders on `device`: loaded at the first call, moved if the images have moved."""
        if self._loaded is None:
            self._loaded = _load(self._location, self._pretrained, device)
        elif self._loaded.device != device:
            self._loaded = replace(
                self._loaded, model=self._loaded.model.to(device), device=device
            )
        return self._loaded

    def _text_features(self, encoders: "_Encoders", prompts: Sequence[str]) -> Tensor:
        """Features of prompts, each encoded once in the reward's life, shape (n, d)."""
        for prompt in set(prompts) - set(self._texts):
            self._texts[prompt] = encoders.text(prompt).cpu()
        return torch.stack([self._texts[prompt] for prompt in prompts]).to(encoders.device)

    def __repr__(self) -> str:
        stated = [f"{k}={_plain(v)!r}" for k, v in self._asked.items() if v is not None]
        if self.batch_size != 32:
            stated.append(f"batch_size={self.batch_size}")
        return f"OpenCLIP({', '.join([repr(self.model), *stated])})"


def emoji_clip() -> OpenCLIP:
    """The dual encoder of the zoo, trained on scenes of emoji.

    Example:
        >>> emoji_clip()  # doctest: +SKIP
        OpenCLIP('emoji-clip')
    """
    return OpenCLIP("emoji-clip")


@dataclass(frozen=True)
class _Found:
    """What a model name stands for: where open_clip finds it, and its constants."""

    name: str
    location: str
    pretrained: str | None = None
    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True)
class _Encoders:
    """A loaded dual encoder."""

    model: Any
    tokenizer: Any
    settings: dict[str, Any]
    device: torch.device

    def images(self, pixels: Tensor) -> Tensor:
        """Unit features of images (n, 3, h, w), shape (n, d), float32."""
        from fkdiff.rewards.preprocess import preprocess

        features = self.model.encode_image(preprocess(pixels, self.settings))
        return nn.functional.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def text(self, text: str) -> Tensor:
        """Unit features of one text, shape (d,), float32; alone, so that no company rounds it."""
        features = self.model.encode_text(self.tokenizer([text]).to(self.device))
        return nn.functional.normalize(features[0].float(), dim=-1)


def _find(model: str, pretrained: str | None) -> _Found:
    folder = Path(model.removeprefix(_LOCAL))
    if model.startswith(_HUB):
        return _Found(model, _alone(model, pretrained, model))
    if model.startswith(_LOCAL) or (folder / "open_clip_config.json").is_file():
        return _Found(folder.name, _alone(model, pretrained, _checked_folder(folder)))
    head, _, tag = model.rpartition("/")
    architectures = _architectures()
    if pretrained is None and head.replace("/", "-") in architectures:
        return _built_in(head.replace("/", "-"), tag)
    if model.replace("/", "-") in architectures:
        return _built_in(model.replace("/", "-"), pretrained)
    return _from_zoo(model, pretrained)


def _alone(model: str, pretrained: str | None, location: str) -> str:
    if pretrained is not None:
        raise RewardError(
            f"pretrained={pretrained!r} names weights for an architecture, but {model!r} brings "
            "its own; leave pretrained out"
        )
    return location


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


def _built_in(architecture: str, pretrained: str | None) -> _Found:
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none, so name a file"
    if pretrained is None:
        raise RewardError(
            f"OpenCLIP({architecture!r}) needs weights; give pretrained=, one of: {tags}"
        )
    if Path(pretrained).is_file():
        return _Found(f"openclip:{architecture}/{Path(pretrained).stem}", architecture, pretrained)
    if not get_pretrained_cfg(architecture, pretrained):
        raise RewardError(
            f"pretrained={pretrained!r} is neither a file nor a tag of {architecture}; "
            f"its tags: {tags}"
        )
    return _Found(f"openclip:{architecture}/{pretrained}", architecture, pretrained)


def _from_zoo(name: str, pretrained: str | None) -> _Found:
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
    location = _alone(name, pretrained, _checked_folder(path))
    return _Found(name, location, mean=stated["mean"], sd=stated["sd"])


def _load(location: str, pretrained: str | None, device: torch.device) -> _Encoders:
    import open_clip

    tag = open_clip.get_pretrained_cfg(location, pretrained) if pretrained else {}
    # The activation that the weights were trained with: open_clip itself only warns.
    quick = bool(tag.get("quick_gelu", False))
    try:
        model = open_clip.create_model(
            location, pretrained, device=device, force_quick_gelu=quick, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(location)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        told = str(error).split(". ")[0].splitlines()[0]
        raise RewardError(
            f"the weights of {location} can't be loaded ({told}); check the network, or name a "
            "folder in open_clip's local format"
        ) from error
    model.eval().requires_grad_(False)
    return _Encoders(model, tokenizer, open_clip.get_model_preprocess_cfg(model), device)


def _check_prompts(prompts: Sequence[str] | None, n: int, name: str) -> None:
    if prompts is None or len(prompts) == 0:
        raise RewardError(
            f"reward {name!r} judges images by prompts, got none; pass prompts=[...]"
        )
    if isinstance(prompts, str) or len(prompts) != n:
        got = f"the string {prompts!r}" if isinstance(prompts, str) else f"{len(prompts)}"
        raise RewardError(f"reward {name!r} needs a list of {n} prompts, one per image, got {got}")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, torch.device) else value

"""Log-probability of a label under an image classifier of transformers or torchvision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.rewards.preprocess import ImageSettings, preprocess, settings_of
from fkdiff.rewards.weights import from_hub, loading, read_tensors
from fkdiff.terms.reward_function import RewardError

__all__ = ["Classifier", "Labelled", "label_number"]

_TORCHVISION = "torchvision:"


class Labelled(ModelReward):
    """Base of rewards that are the log-probability of a label, which they are named by."""

    model: str
    label: str | int | None
    argument = "MODEL:LABEL"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None:
            return
        model, _, label = self.model.rpartition(":")
        if not model or model == _TORCHVISION[:-1]:
            kind = type(self).__name__
            raise RewardError(f"a classifier needs a label: {kind}({self.model!r}, label)")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "label", int(label) if label.isdecimal() else label)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name in reports: the label."""
        return str(self.label)


@dataclass(frozen=True, eq=False, repr=False)
class Classifier(Labelled):
    r"""Log-probability that an image shows what a label says.

    $$ r(x) = \log p(\text{label} \mid x) \le 0 $$

    With `Tilt(..., scale=1)` the target is the law of the images that carry the label. The prompt
    isn't read. Natural constants: mean 0 and sd 1, unless stated. The other settings are those of
    `ModelReward`.

    Arguments:
        model: Hub id or folder of an image classifier of transformers, or "torchvision:NAME" with
            its default weights, or "torchvision:NAME/WEIGHTS".
        label: Name of a label (case and underscores don't matter), or its number; None to read it
            off the end of `model`, written "MODEL:LABEL".
        checkpoint: For torchvision: a safetensors file of weights instead of the download.

    Raises:
        RewardError: If the model or the label is unknown; known when weights are loaded.

    References:
        | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 4
        | https://arxiv.org/abs/2105.05233

    Example:
        >>> Classifier("google/vit-base-patch16-224", "golden retriever").name
        'golden retriever'
        >>> Classifier("torchvision:resnet50:golden_retriever")
        Classifier(model='torchvision:resnet50', label='golden_retriever')
    """

    model: str
    label: str | int | None = None
    checkpoint: str | None = None

    reads_prompts = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint and not self.model.startswith(_TORCHVISION):
            raise RewardError(
                f"checkpoint goes with {_TORCHVISION}NAME, got model {self.model!r}; a model of "
                "transformers is loaded from its folder"
            )

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The checkpoint, else what the model's name says."""
        if self.checkpoint:
            return (self.checkpoint,)
        return (self.model if self.model.startswith(_TORCHVISION) else from_hub(self.model),)

    def load(self) -> nn.Module:
        """The classifier, its preprocessing, and the label's number."""
        with loading(self.model):
            if self.model.startswith(_TORCHVISION):
                return self._torchvision(self.model.removeprefix(_TORCHVISION))
            return self._transformers()

    def _transformers(self) -> nn.Module:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        settings = settings_of(AutoImageProcessor.from_pretrained(self.model))
        model = AutoModelForImageClassification.from_pretrained(self.model, dtype=torch.float32)
        number = label_number(self.label, model.config.id2label, self.model)
        return _log_probability(model, settings, number)

    def _torchvision(self, name: str) -> nn.Module:
        from torchvision.models import get_model, get_model_weights

        architecture, _, tag = name.partition("/")
        weights = get_model_weights(architecture)[tag or "DEFAULT"]
        number = label_number(self.label, dict(enumerate(weights.meta["categories"])), name)
        model = get_model(architecture, weights=None if self.checkpoint else weights)
        if self.checkpoint:
            model.load_state_dict(read_tensors(self.checkpoint))
        preset = weights.transforms()
        settings = ImageSettings(
            size=preset.crop_size[0],
            resize=preset.resize_size[0],
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            interpolation=preset.interpolation.value,
        )
        return _log_probability(model, settings, number)


def _log_probability(model: nn.Module, settings: ImageSettings, number: int) -> nn.Module:
    def values(model: nn.Module, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        logits = model(preprocess(pixels, settings))
        logits = logits if isinstance(logits, Tensor) else logits.logits
        return logits.log_softmax(dim=1)[:, number]

    return Network(values, model)


def label_number(label: str | int | None, names: Mapping[int, str], model: str) -> int:
    """The number of a label, given as such or by name."""
    if isinstance(label, int):
        if label in names:
            return label
        raise RewardError(f"{model} has labels 0 to {len(names) - 1}, got {label}")
    wanted = _plain(label)
    found = [n for n, name in names.items() if wanted in map(_plain, [name, *name.split(", ")])]
    if len(found) == 1:
        return found[0]
    if found:
        raise RewardError(f"{label!r} is the name of labels {found} of {model}; give a number")
    known = ", ".join(list(names.values())[:5])
    raise RewardError(f"{model} has no label {label!r}; it has {known}, ... ({len(names)} in all)")


def _plain(label: Any) -> str:
    return str(label).replace("_", " ").strip().casefold()

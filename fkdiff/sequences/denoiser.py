r"""The denoiser of a Gumbel-softmax flow: a small transformer over closed-form likelihoods."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.processes.simplex import log_likelihood
from fkdiff.sequences.alphabet import Alphabet

__all__ = ["SimplexDenoiser"]


class SimplexDenoiser(ModelMixin, ConfigMixin):
    r"""Posterior of every token from noisy centred logits.

    By Bayes' rule the posterior of token $k_l$ is its own likelihood times what the rest of the
    sequence says of it,

    $$p(k_l = k \mid z) \propto e^{\ell_k(z_l)}\, p(k_l = k \mid z_{-l}),$$

    and the likelihood is a closed form (`log_likelihood`), for every schedule. The network gets
    $\mathrm{softmax}(\ell(z_l))$, a sufficient statistic, and learns the logarithm of the second
    factor alone, as a table of each place's letters plus what a transformer reads in the others;
    the logits that it returns are the sum. Where places are independent the table is exact.

    Arguments:
        alphabet: Its K letters.
        max_length: Longest sequence.
        width: Width of the transformer, a multiple of `heads`.
        layers: Number of blocks.
        heads: Attention heads.
        classes: Names of the classes that it can be conditioned on.
        dropout: Share of activations dropped in training.

    References:
        | Gumbel-Softmax Flow Matching with Straight-Through Guidance for Controllable Biological
        | Sequence Generation (Tang et al., 2025), arXiv 2503.17361
        | Scalable Diffusion Models with Transformers (Peebles & Xie, 2022), arXiv 2212.09748

    Example:
        >>> net = SimplexDenoiser("ACGT", max_length=8, width=16, layers=1, heads=2)
        >>> z = torch.zeros(2, 8, 4)
        >>> net(z, 0.0, 1.0, mask=torch.ones(2, 8, dtype=torch.bool)).shape
        torch.Size([2, 8, 4])
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        alphabet: str,
        max_length: int,
        width: int = 128,
        layers: int = 5,
        heads: int = 4,
        classes: Sequence[str] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        k = len(Alphabet(alphabet))
        for name, value in (("max_length", max_length), ("layers", layers), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads ({heads}), got {width}")
        self.read = nn.Linear(k, width)
        self.from_start = nn.Embedding(max_length, width)
        self.from_end = nn.Embedding(max_length, width)
        self.label = nn.Embedding(len(classes) + 1, width)  # the last is "any"
        self.level = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.modulate = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.write = nn.Linear(width, k)
        self.letters = nn.Parameter(torch.zeros(max_length, k))
        for table in (self.from_start, self.from_end, self.label):
            nn.init.normal_(table.weight, std=0.02)
        for linear in (self.modulate, self.write):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    @torch.no_grad()
    def count(self, tokens: Tensor) -> None:
        """Start the table from the shares of the letters at each place of known sequences.

        Arguments:
            tokens: Shape (n, L), int64, -1 at padding.

        Example:
            >>> net = SimplexDenoiser("AB", max_length=1, width=8, layers=1, heads=1)
            >>> net.count(torch.tensor([[0], [0], [0], [1]]))
            >>> net.letters.detach().softmax(-1)
            tensor([[0.7000, 0.3000]])
        """
        k = self.letters.shape[1]
        for place, column in enumerate(tokens.unbind(1)):
            seen = torch.bincount(column[column >= 0], minlength=k) + 0.5
            self.letters[place] = (seen / seen.mean()).log()

    @property
    def alphabet(self) -> Alphabet:
        """Its letters."""
        return Alphabet(self.config["alphabet"])

    def class_numbers(self, names: Sequence[str | None]) -> Tensor:
        """Numbers (n,) of class names; None is any class.

        Raises:
            ValueError: If it wasn't trained on such a class.
        """
        known: list[Any] = [*self.config["classes"], None]
        for name in names:
            if name not in known:
                told = ", ".join(known[:-1]) or "none: it was trained without classes"
                raise ValueError(f"class must be one of {told}, got {name!r}")
        return torch.tensor([known.index(name) for name in names], dtype=torch.int64)

    def forward(
        self,
        z: Tensor,
        alpha: "float | Tensor",
        sigma: "float | Tensor",
        mask: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Logits of the posterior of every token.

        Arguments:
            z: Centred logits, shape (n, L, K), L at most `max_length`.
            alpha: Gain of the token, a number or shape (n, 1, 1).
            sigma: Scale of the noise, likewise.
            mask: True where the sequence has a position, shape (n, L), bool; True comes first.
            labels: Class numbers (n,), None for any.

        Returns:
            Shape (n, L, K); what stands at masked positions means nothing.
        """
        n, length, k = z.shape
        evidence = log_likelihood(z, alpha, sigma).log_softmax(-1)
        place = torch.arange(length, device=z.device)
        end = (mask.sum(1, keepdim=True) - 1 - place).clamp(min=0)
        h = self.read(20 * (evidence.exp() - 1 / k))  # of order 1 at any K
        h = h + self.from_start(place) + self.from_end(end)
        given = self.label.num_embeddings - 1 if labels is None else labels
        given = torch.as_tensor(given, device=z.device).expand(n)
        gain = torch.as_tensor(alpha / sigma, dtype=z.dtype, device=z.device)
        gain = gain.reshape(-1, 1).expand(n, 1) / (math.log(k) + 6)
        context = self.level(_waves(gain)) + self.label(given)
        shifts = self.modulate(F.silu(context))[:, None].chunk(6, -1)
        keys = mask[:, None, None]
        for block in self.blocks:
            h = block(h, shifts, keys)
        return evidence + self.letters[:length] + self.write(self.norm(h))


class _Block(nn.Module):
    """Attention and perceptron, scaled and shifted by the noise level and the class."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.shift = nn.Parameter(torch.zeros(6, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, shifts: Sequence[Tensor], keys: Tensor) -> Tensor:
        a, b, c, d, e, f = (shift + own for shift, own in zip(shifts, self.shift, strict=True))
        n, length, width = h.shape
        q, k, v = (
            part.reshape(n, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norms[0](h) * (1 + a) + b).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        h = h + (1 + c) * self.dropout(self.mix(seen.transpose(1, 2).reshape(n, length, width)))
        inner = F.gelu(self.up(self.norms[1](h) * (1 + d) + e), approximate="tanh")
        return h + (1 + f) * self.dropout(self.down(inner))


def _waves(values: Tensor) -> Tensor:
    """Sines and cosines of values (n, 1) in about [0, 1], shape (n, 32)."""
    rates = torch.logspace(0, 2, 16, device=values.device, dtype=values.dtype)
    angles = values * rates
    return torch.cat([angles.sin(), angles.cos()], -1)

"""`emoji-vqa`'s network: what each cell of a picture shows, from which clauses are read.

Nothing of it is shared with `emoji-judge` but the art: another architecture, other layouts, seeds
and augmentations, so that what fools the reward need not fool the judge.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.zoo.clauses import CLASSES, TINTS, Answers, clauses, probabilities
from fkdiff.zoo.parse import parse
from fkdiff.zoo.words import BACKGROUNDS

__all__ = ["AnswerNet", "Answerer", "load_answerer"]

_WIDTHS = (64, 192)
_FLOOR = 1e-6
_LEAST = 1e-4


class _Residual(nn.Module):
    """A depthwise convolution and two that mix channels, around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 5, 1, 2, groups=width)
        self.norm = nn.GroupNorm(8, width)
        self.widen = nn.Conv2d(width, 3 * width, 1)
        self.narrow = nn.Conv2d(3 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        return x + self.narrow(F.gelu(self.widen(self.norm(self.spread(x)))))


class AnswerNet(nn.Module):
    """A residual net of 1.0 M parameters on cells of 4 and then of 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        fine, coarse = _WIDTHS
        self.body = nn.Sequential(
            nn.Conv2d(3, fine, 4, 4),
            _Residual(fine),
            _Residual(fine),
            nn.Conv2d(fine, coarse, 2, 2),
            *(_Residual(coarse) for _ in range(4)),
        )
        self.cell = nn.Conv2d(coarse, len(CLASSES) + len(TINTS) + 1, 1)
        self.ground = nn.Linear(coarse, len(BACKGROUNDS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of classes, tints (n, c, 8, 8), big (n, 8, 8) and grounds (n, 10).

        Arguments:
            x: Pictures, (n, 3, 64, 64), in [-1, 1].
        """
        features = self.body(x)
        cells, split = self.cell(features).float(), len(CLASSES)
        grounds = self.ground(features.mean((2, 3))).float()
        return cells[:, :split], cells[:, split:-1], cells[:, -1], grounds

    def answers(self, x: Tensor) -> Answers:
        """The same as probabilities."""
        classes, tints, big, grounds = self(x)
        return Answers(
            classes.flatten(2).softmax(1),
            tints.flatten(2).softmax(1),
            big.flatten(1).sigmoid(),
            grounds.softmax(1),
        )


class Answerer(nn.Module):
    r"""Maps pictures and captions to the log-probability that everything the captions say is true.

    $$ q = \Bigl(1 + \sum_{c=1}^m \bigl(\tfrac{1 - p_c}{p_c}\bigr)^{a_k}\Bigr)^{-1}, \qquad
       r(x, y) = \log \frac{q + \epsilon}{1 + \epsilon}, \quad \epsilon = 10^{-4} $$

    over the m clauses of caption y, of kinds k, with slopes a calibrated on held-out pictures. q
    lies between the product of the clauses' probabilities and the least of them, and its gradient
    goes to the clauses that are worst.

    Arguments:
        net: The trained network.
        scales: Kind of clause -> (a, b); (1, 0) where none is given.
    """

    def __init__(self, net: AnswerNet, scales: dict[str, tuple[float, float]]) -> None:
        super().__init__()
        self.net, self.scales = net, scales

    def forward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Values of n pictures (n, 3, 64, 64) in [0, 1] with n captions, (n,)."""
        if pixels.shape[-2:] != (64, 64):
            pixels = F.interpolate(pixels, size=64, mode="bilinear", antialias=True)
        found = self.net.answers(2 * pixels - 1)
        values = []
        for row, prompt in enumerate(prompts):
            one = Answers(*(part[row : row + 1] for part in vars(found).values()))
            values.append(self.values(one, prompt))
        return torch.cat(values) if values else pixels.new_zeros(0)

    def values(self, answers: Answers, prompt: str) -> Tensor:
        """The reward of one caption, (n,)."""
        logits, scales = self._logits(answers, prompt)
        # Without the shift: fitted on renders, it forgives the half-formed objects of a model.
        odds = (-scales[:, 0] * logits).exp().sum(1)
        return ((1 / (1 + odds) + _LEAST) / (1 + _LEAST)).log()

    def log_probabilities(self, answers: Answers, prompt: str) -> Tensor:
        """Calibrated log-probability of each clause of one caption, (n, clauses)."""
        logits, scales = self._logits(answers, prompt)
        return F.logsigmoid(scales[:, 0] * logits + scales[:, 1])

    def _logits(self, answers: Answers, prompt: str) -> tuple[Tensor, Tensor]:
        """Log-odds of each clause, (n, clauses), and its slope and shift, (clauses, 2)."""
        scene = parse(prompt)
        logits = probabilities(answers, scene).clamp(_FLOOR, 1 - _FLOOR).logit()
        scales = [self.scales.get(clause.kind, (1.0, 0.0)) for clause in clauses(scene)]
        return logits, logits.new_tensor(scales)


def load_answerer(folder: Path | None = None) -> Answerer:
    """The bundled `emoji-vqa`, or one in another folder."""
    source = Path(__file__).parent / "emoji_vqa" if folder is None else folder
    net = AnswerNet()
    weights = load_file(source / "model.safetensors")
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    facts = json.loads((source / "card.json").read_text(encoding="utf-8"))
    scales = {kind: (a, b) for kind, (a, b) in facts["calibration"]["clauses"].items()}
    return Answerer(net.to(memory_format=torch.channels_last), scales).eval()

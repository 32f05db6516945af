"""Is everything true that a caption says? The zoo's graded answer on scenes of emoji."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fkdiff import zoo
from fkdiff.rewards.model_reward import ModelReward, Network
from fkdiff.rewards.weights import loading
from fkdiff.terms.reward_function import RewardError

__all__ = ["EmojiVQA"]

_MEASURED = zoo.card("emoji-vqa")["calibration"]


@dataclass(frozen=True, eq=False, repr=False)
class EmojiVQA(ModelReward):
    r"""Log-probability that all is true that a caption says, from the odds of each clause.

    $$ r(x, y) = \log \frac{q + \epsilon}{1 + \epsilon} \le 0, \qquad
       q = \Bigl(1 + \sum_{c=1}^m \frac{1 - p(c \mid x)}{p(c \mid x)}\Bigr)^{-1}, \quad
       \epsilon = 10^{-4} $$

    The m clauses of caption y: its background, the number of each object, its colour and size,
    their sides, and that there is nothing else. A small network gives the probabilities; their
    odds are scaled by kind of clause. q lies between the product of all and the least of them, so
    that right clauses don't make up for a wrong one. Numbers and places are soft, so that the
    gradient can move, remove and make objects. `mean` and `sd` are those of plain samples of
    `emoji`. Settings are those of `ModelReward`.

    Raises:
        RewardError: When called: a prompt isn't a caption as `fkdiff.zoo.scenes` writes them.

    References:
        | Evaluating Text-to-Visual Generation with Image-to-Text Generation
        | (Lin et al., 2024) | https://arxiv.org/abs/2404.01291
        | Davidsonian Scene Graph (Cho et al., 2023) | https://arxiv.org/abs/2310.18235

    Example:
        >>> EmojiVQA().name
        'emoji-vqa'
    """

    mean: float = _MEASURED["mean"]
    sd: float = _MEASURED["sd"]
    batch_size: int = 32

    name = "emoji-vqa"
    weights = ("zoo:emoji-vqa",)

    def load(self) -> nn.Module:
        """The bundled network."""
        from fkdiff.zoo.answerer import load_answerer

        with loading("emoji-vqa"):
            return Network(_readable, load_answerer(zoo.path("emoji-vqa")))


def _readable(answerer: nn.Module, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """The network's values, with a reward's error for prompts that it can't read."""
    try:
        return answerer(pixels, prompts)
    except ValueError as error:
        raise RewardError(f"reward 'emoji-vqa' can't read a prompt: {error}") from error

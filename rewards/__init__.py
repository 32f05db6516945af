"""Reward plug-ins: `from fkdiff.rewards import OpenCLIP`.

Names are loaded when they are first used, so that listing rewards imports neither torch nor a
model library. To publish a reward of your own, declare an entry point in the group
`fkdiff.rewards`.
"""

if __name__ != "fkdiff.rewards":  # a second copy of every class would break isinstance
    raise ImportError("use `import fkdiff.rewards`, not `import rewards`")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fkdiff.rewards.aesthetic import AestheticPredictor
    from fkdiff.rewards.audio import Loudness, SpectralCentroid, SpectralFlatness
    from fkdiff.rewards.classifier import Classifier
    from fkdiff.rewards.emoji_vqa import EmojiVQA
    from fkdiff.rewards.frames import PerFrame
    from fkdiff.rewards.hps import HPSv2
    from fkdiff.rewards.image_reward import ImageReward
    from fkdiff.rewards.language_model import LogLikelihood, Perplexity
    from fkdiff.rewards.pick_score import PickScore
    from fkdiff.rewards.pixels import Brightness, Colourfulness, JPEGSize
    from fkdiff.rewards.protein import ProteinProperty
    from fkdiff.rewards.rgba import Coverage, EdgeSharpness, OverBackgrounds, Uncropped
    from fkdiff.rewards.safety import Safety
    from fkdiff.rewards.text_image import OpenCLIP
    from fkdiff.rewards.text_networks import Similarity, TextClassifier
    from fkdiff.rewards.text_rules import MotifPresence, Pattern, TextLength
    from fkdiff.rewards.vqa import VQAScore

__all__ = [
    "AestheticPredictor",
    "Brightness",
    "Classifier",
    "Colourfulness",
    "Coverage",
    "EdgeSharpness",
    "EmojiVQA",
    "HPSv2",
    "ImageReward",
    "JPEGSize",
    "LogLikelihood",
    "Loudness",
    "MotifPresence",
    "OpenCLIP",
    "OverBackgrounds",
    "Pattern",
    "PerFrame",
    "Perplexity",
    "PickScore",
    "ProteinProperty",
    "Safety",
    "Similarity",
    "SpectralCentroid",
    "SpectralFlatness",
    "TextClassifier",
    "TextLength",
    "Uncropped",
    "VQAScore",
]

_NAMES = {
    "aesthetic": "AestheticPredictor",
    "audio": "Loudness SpectralCentroid SpectralFlatness",
    "classifier": "Classifier",
    "emoji_vqa": "EmojiVQA",
    "frames": "PerFrame",
    "hps": "HPSv2",
    "image_reward": "ImageReward",
    "language_model": "LogLikelihood Perplexity",
    "pick_score": "PickScore",
    "pixels": "Brightness Colourfulness JPEGSize",
    "protein": "ProteinProperty",
    "rgba": "Coverage EdgeSharpness OverBackgrounds Uncropped",
    "safety": "Safety",
    "text_image": "OpenCLIP",
    "text_networks": "Similarity TextClassifier",
    "text_rules": "MotifPresence Pattern TextLength",
    "vqa": "VQAScore",
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names.split():
            return getattr(import_module(f"fkdiff.rewards.{module}"), name)
    raise AttributeError(f"module 'fkdiff.rewards' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

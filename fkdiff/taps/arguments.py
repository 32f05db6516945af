"""A pipeline call's arguments, expanded so that it draws K particles for each prompt."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fkdiff.taps.coefficients import TapError

__all__ = ["Expanded", "expand", "seed_of"]

_PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")

# These accept `num_videos_per_prompt` and then set it to 1, so their prompts are repeated; LTX
# gives its autoencoder one decoding time a prompt, which fits no other number of rows.
_REPEATING = ("CogVideoX", "Allegro", "AnimateDiff", "ConsisID", "LTX")


@dataclass(frozen=True)
class Expanded:
    """Arguments of the call that is really made.

    Arguments:
        arguments: Keyword arguments for the pipeline, without `generator`.
        prompts: One string per prompt; class labels as strings, empty for unconditional models.
        wanted: Samples per prompt that the user asked for.
        key: Keyword that sets the number of samples a prompt, None if prompts are repeated.
    """

    arguments: dict[str, Any]
    prompts: list[str]
    wanted: int
    key: str | None


def expand(
    pipe: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    particles: int,
    slots: range | None = None,
) -> Expanded:
    """Bind the user's call and ask for `particles` rows a prompt, prompt-major.

    What the call leaves out is taken from the model's card, if it has one.

    Arguments:
        pipe: The pipeline.
        args: The call's arguments.
        kwargs: The call's keyword arguments.
        particles: K.
        slots: Those of the K that are drawn here, None for all.

    Raises:
        TypeError: If the arguments don't fit the pipeline's signature.
        ValueError: If latents are given with another number of rows.
    """
    signature = inspect.signature(type(pipe).__call__)
    bound = {**_card_defaults(pipe), **signature.bind(pipe, *args, **kwargs).arguments}
    bound.pop("self", None)
    bound.update(bound.pop("kwargs", {}))
    # Z-Image writes its template into the list of prompts, which is the user's.
    given: dict[str, Any] = {k: v[:] if isinstance(v, list) else v for k, v in bound.items()}
    names = _names(pipe, signature)
    _check_state(pipe, given)
    key = _count_key(pipe, names)
    wanted = int(given.pop(key, 1) or 1) if key else 1
    prompts = _prompts(given)
    slots = range(particles) if slots is None else slots
    if key:
        given[key] = len(slots)
    else:
        _repeat(given, len(slots))
    _check_latents(given, len(prompts) * particles)
    if given.get("latents") is not None and len(slots) < particles:
        rows = [p * particles + slot for p in range(len(prompts)) for slot in slots]
        given["latents"] = given["latents"][rows]
    given.pop("generator", None)
    return Expanded(given, prompts, wanted, key)


def _card_defaults(pipe: Any) -> dict[str, Any]:
    """Call defaults that a bundled model states in the card beside its weights."""
    card = Path(str(getattr(pipe, "name_or_path", None) or ".")) / "card.json"
    return json.loads(card.read_text()).get("defaults", {}) if card.is_file() else {}


def _names(pipe: Any, signature: inspect.Signature) -> set[str]:
    """Names of what the call takes; a modular pipeline's are its blocks' inputs."""
    blocks = getattr(pipe, "default_call_parameters", None)
    return set(signature.parameters if blocks is None else blocks)


def _check_state(pipe: Any, given: dict[str, Any]) -> None:
    """Refuse what lives in the state of a modular pipeline's blocks, where no row can follow."""
    if not hasattr(pipe, "default_call_parameters"):
        return
    if given.get("mask_image") is not None:
        raise TapError(
            f"{type(pipe).__name__} keeps the masked image of each row in its loop's own state "
            f"(modular_pipelines/modular_pipeline.py, BlockState), where it can't follow a "
            f"resampled particle; inpaint with the classic pipeline of the same model"
        )
    if given.get("state") is not None:
        raise TapError("state can't be continued for K particles; pass its inputs by name")


def _count_key(pipe: Any, names: set[str]) -> str | None:
    if type(pipe).__name__.startswith(_REPEATING) or "class_labels" in names:
        return None
    for key in _PER_PROMPT:
        if key in names:
            return key
    return "batch_size" if "batch_size" in names else None


def _prompts(given: dict[str, Any]) -> list[str]:
    for name in ("prompt", "class_labels"):
        value = given.get(name)
        if isinstance(value, str):
            return [value]
        if value is not None:
            return [str(v) for v in (value if isinstance(value, list) else [value])]
    embeds = given.get("prompt_embeds")
    return [""] * (len(embeds) if embeds is not None else 1)


def _repeat(given: dict[str, Any], particles: int) -> None:
    prompts = given.get("prompt")
    if isinstance(prompts, str):
        given["prompt"] = [prompts]
    labels = given.get("class_labels")
    if labels is not None and not isinstance(labels, list):
        given["class_labels"] = [labels]
    for name in ("prompt", "class_labels", "negative_prompt"):
        if isinstance(given.get(name), list):
            given[name] = [v for v in given[name] for _ in range(particles)]
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        if isinstance(given.get(name), torch.Tensor):
            given[name] = given[name].repeat_interleave(particles, dim=0)


def _check_latents(given: dict[str, Any], rows: int) -> None:
    latents = given.get("latents")
    if latents is not None and len(latents) != rows:
        raise ValueError(
            f"latents must have {rows} rows, one for each particle, got {len(latents)}; "
            f"repeat them or leave them out"
        )


def seed_of(given: Any, seed: int | None) -> int | None:
    """The seed to use: the keyword's, else the one that a user's generator started from."""
    if seed is not None or given is None:
        return seed
    first = given[0] if isinstance(given, list) else given
    return first.initial_seed()

"""A pipeline call's arguments, expanded so that it draws K particles for each prompt."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fkdiff.taps.coefficients import TapError
from fkdiff.taps.per_prompt import PerPrompt
from fkdiff.taps.preparing import drawn_images

__all__ = ["Expanded", "expand"]

_PER_PROMPT = (
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "num_waveforms_per_prompt",
    "batch_size",
)


@dataclass(frozen=True)
class Expanded:
    """Arguments of the call that is really made.

    Arguments:
        arguments: Keyword arguments for the pipeline, without `generator`.
        prompts: One string per prompt; class labels as strings, empty for unconditional models.
        wanted: Samples per prompt that the user asked for.
        key: Keyword that sets the number of samples a prompt, None if prompts are repeated.
        inputs: The call by prompt, None where a pipeline draws tokens.
        generator: What the user gave as one: a generator, a list of them, or None.
    """

    arguments: dict[str, Any]
    prompts: list[str]
    wanted: int
    key: str | None
    inputs: PerPrompt | None = None
    generator: Any = None


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
        ValueError: If latents are given with another number of rows, or `prompts`, the texts of
            embedded prompts for rewards, in another number.
        TapError: If the call would end before its last step.
    """
    signature, kwargs = inspect.signature(type(pipe).__call__), dict(kwargs)
    texts = None if "prompts" in signature.parameters else kwargs.pop("prompts", None)
    bound = {**_card_defaults(pipe), **signature.bind(pipe, *args, **kwargs).arguments}
    bound.pop("self", None)
    bound.update(bound.pop("kwargs", {}))
    generator = bound.pop("generator", None)
    _check_state(pipe, bound)
    _check_whole(bound)
    key = next((k for k in _PER_PROMPT if k in _names(pipe, signature)), None)
    counted = _counted(key, bound.pop(key, None) if key else None)
    inputs = PerPrompt(
        type(pipe).__name__,
        bound,
        key,
        frozenset(n for n, p in signature.parameters.items() if p.annotation is str),
        drawn_images(pipe),
    )
    slots, prompts = range(particles) if slots is None else slots, inputs.prompts
    given = inputs.call(range(prompts), len(slots))
    _check_latents(given, prompts * particles)
    if given.get("latents") is not None and len(slots) < particles:
        rows = [p * particles + slot for p in range(prompts) for slot in slots]
        given["latents"] = given["latents"][rows]
    wanted = 1 if inputs.ignoring else counted
    key = key if inputs.counted else None
    return Expanded(given, _told(texts, inputs), wanted, key, inputs, generator)


def _card_defaults(pipe: Any) -> dict[str, Any]:
    """Call defaults that a bundled model states in the card beside its weights."""
    card = Path(str(getattr(pipe, "name_or_path", None) or ".")) / "card.json"
    return json.loads(card.read_text()).get("defaults", {}) if card.is_file() else {}


def _counted(key: str | None, given: Any) -> int:
    """Samples of each prompt that the call asks for.

    Raises:
        ValueError: If it asks for none.
    """
    if given is None:
        return 1
    if int(given) < 1:
        raise ValueError(f"{key} must be at least 1, got {given}; leave it out for one")
    return int(given)


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


def _check_whole(given: dict[str, Any]) -> None:
    """Refuse a run that leaves noise for another pipeline: its weights would be incomplete."""
    end = given.get("denoising_end")
    if end is not None and 0 < float(end) < 1:
        raise TapError(
            f"denoising_end must be left out, got {end}: a run that ends early has no samples "
            f"for rewards to weigh; steer the whole run, or the second pipeline alone"
        )


def _told(texts: Any, inputs: PerPrompt) -> list[str]:
    """What rewards read of each prompt: texts given beside embeddings, or the call's own."""
    if texts is None:
        return inputs.texts
    texts = [texts] if isinstance(texts, str) else list(texts)
    if any(inputs.texts):
        raise ValueError("prompts must be left out where the call has the texts itself")
    if len(texts) != inputs.prompts:
        raise ValueError(
            f"prompts must hold a text for each of the {inputs.prompts} embedded prompts, "
            f"got {len(texts)}"
        )
    return texts


def _check_latents(given: dict[str, Any], rows: int) -> None:
    latents = given.get("latents")
    if latents is not None and len(latents) != rows:
        raise ValueError(
            f"latents must have {rows} rows, one for each particle, got {len(latents)}; "
            f"repeat them or leave them out"
        )

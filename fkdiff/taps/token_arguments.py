"""A token pipeline call's arguments, expanded so that it draws K particles for each prompt."""

import inspect
from typing import Any

from fkdiff.taps.arguments import Expanded
from fkdiff.taps.coefficients import TapError

__all__ = ["expand_tokens"]


def expand_tokens(
    pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], particles: int
) -> Expanded:
    """Bind the user's call and repeat its prompts or input tokens `particles` times each.

    Raises:
        TapError: If the call asks for what can't be steered.
    """
    signature = inspect.signature(type(pipe).__call__)
    bound = signature.bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    given = {k: v for k, v in bound.arguments.items() if k not in ("self", "generator")}
    generator = bound.arguments.get("generator")
    prompt, messages, ids = (given.get(k) for k in ("prompt", "messages", "input_ids"))
    if ids is not None:
        ids = ids[None] if ids.ndim == 1 else ids
        given["input_ids"] = ids.repeat_interleave(particles, dim=0)
        if given.get("attention_mask") is not None:
            mask = given["attention_mask"].reshape(ids.shape)
            given["attention_mask"] = mask.repeat_interleave(particles, dim=0)
        return Expanded(given, [""] * len(ids), 1, None, generator=generator)
    if messages is None and not prompt:
        raise TapError(f"{type(pipe).__name__} needs a prompt, got {prompt!r}; give prompt='...'")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
    return Expanded(_repeated(pipe, given, texts, particles), texts, 1, None, generator=generator)


def _repeated(
    pipe: Any, given: dict[str, Any], texts: list[str], particles: int
) -> dict[str, Any]:
    """Arguments with the prompts repeated, or encoded where the pipeline repeats none itself."""
    if "use_chat_template" not in given:
        if given.get("messages") is not None or given.get("image") is not None:
            raise TapError(
                f"{type(pipe).__name__} is steered with prompts alone; leave out messages, image"
            )
        given["prompt"] = [text for text in texts for _ in range(particles)]
        return given
    names = (
        "messages", "input_ids", "attention_mask", "use_chat_template", "add_generation_prompt"
    )  # fmt: skip
    asked = {name: given[name] for name in names}
    prompt = texts[0] if isinstance(given["prompt"], str) else given["prompt"]
    ids, mask = pipe._prepare_input_ids(prompt=prompt, chat_template_kwargs=None, **asked)
    given |= {"prompt": None, "messages": None}
    given["input_ids"] = ids.repeat_interleave(particles, dim=0)
    given["attention_mask"] = mask.repeat_interleave(particles, dim=0)
    return given

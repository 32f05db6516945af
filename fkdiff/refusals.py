"""What `steer` refuses before a run, with the remedy."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from fkdiff.taps import PipelineTap, TapError
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.tokens import TokenTap
from fkdiff.terms.reward import Reward
from fkdiff.terms.reward_function import Keywords
from fkdiff.terms.term import Term

__all__ = ["check_drawn", "check_read", "check_shared", "reads_texts"]

# These keep an encoded image of each row in variables of their call, which one process alone sees.
_CARRYING = ("FluxControl", "LTX2ImageToVideo", "LTXCondition", "LTXImageToVideo")
_IMAGES = ("image", "mask_image", "control_image", "video", "conditions")


def reads_texts(reward: Any) -> bool:
    """Whether a reward, or a part of it, has an argument `prompts`.

    Arguments:
        reward: A reward; of a combination its parts are asked, wherever it holds them.

    Example:
        >>> from fkdiff import as_reward
        >>> plain = as_reward(lambda images: images.mean((1, 2, 3)), name="plain")
        >>> texts = as_reward(lambda images, prompts: images.mean((1, 2, 3)), name="texts")
        >>> reads_texts(plain), reads_texts(plain + 2 * texts)
        (False, True)
    """
    held = vars(reward).values() if hasattr(reward, "__dict__") else ()
    parts = [
        part
        for value in held
        for part in (value if isinstance(value, list | tuple) else [value])
        if callable(part) and hasattr(part, "inputs")
    ]
    if parts:
        return any(reads_texts(part) for part in parts)
    stated = getattr(reward, "reads_prompts", None)
    if stated is not None:
        return stated
    asked = getattr(reward, "fn", reward)
    if "prompts" in Keywords.of(asked).reserved:
        return False
    asked = asked.forward if isinstance(asked, nn.Module) else asked
    try:
        return "prompts" in inspect.signature(asked).parameters
    except ValueError:  # a builtin takes the samples alone
        return False


def check_drawn(
    pipe: Any, terms: Sequence[Term], stochastic: bool | None, keep: object, group: object
) -> None:
    """Refuse what pipelines that draw tokens can't do: they mix no predictions.

    Arguments:
        pipe: A token pipeline.
        terms: The terms.
        stochastic: As in `steer`; their steps are stochastic or not as called.
        keep: Where the state is to be kept, None for nowhere.
        group: Processes that are to share the particles, None for this one alone.

    Raises:
        TapError: If so.
    """
    kind = type(pipe).__name__
    if keep is not None:
        raise TapError(f"keep must be None for {kind}, which draws tokens")
    if group is not None:
        raise TapError(
            f"group must be None for {kind}, which keeps what it has "
            f"written in the pipeline; give each process prompts of its own"
        )
    for term in terms:
        if not term.needs <= {"x0", "decode"}:
            raise TapError(
                f"terms must weigh samples, as Tilt does, for {kind}, got {term!r}; "
                f"MaskedDiffusionPipeline takes pools and correctors"
            )
    if stochastic is True:
        raise TapError(
            f"stochastic must be None or False for {kind}: its call's "
            f"temperature says whether tokens are drawn"
        )


def check_shared(pipe: Any, expanded: Expanded) -> None:
    """Refuse what one particle's stream draws for all of them, wherever they are.

    Raises:
        TapError: If so.
    """
    given = expanded.arguments
    images = [k for k in _IMAGES if given.get(k) is not None]
    if images and type(pipe).__name__.startswith(_CARRYING):
        raise TapError(
            f"group must be None for a call with {images[0]}: {type(pipe).__name__} keeps an "
            f"encoding of it for each row, which can't move to another process; give each "
            f"process prompts of its own"
        )
    if {"image", "mask_image"} & {*images} and hasattr(pipe, "_encode_vae_image"):
        raise TapError(
            f"group must be None for a call with {images[0]}: {type(pipe).__name__} "
            f"draws one encoding of it for all particles from the first one's generator; "
            f"give each process prompts of its own"
        )


def check_read(pipe: Any, tap: PipelineTap | TokenTap, rewards: Iterable[Reward]) -> None:
    """Refuse rewards that read what isn't there: other samples, or texts that nobody gave.

    Arguments:
        pipe: The pipeline.
        tap: What watches it.
        rewards: Those that steer and those that are monitored.

    Raises:
        TapError: If there is one.
    """
    texts, arguments = tap.expanded.prompts, tap.expanded.arguments
    embedded = not any(texts) and any(
        value is not None and name.endswith("prompt_embeds") and not name.startswith("negative")
        for name, value in arguments.items()
    )
    for reward in rewards:
        if embedded and reads_texts(reward):
            raise TapError(
                f"prompts must be given beside prompt_embeds: the reward {reward.name!r} reads "
                f"texts, which can't be told from embeddings; add prompts=['...'] to the call"
            )
        if reward.inputs in tap.readable:
            continue
        if reward.inputs == "rgba" and tap.inputs == "pixels":
            raise TapError(
                f"the reward {reward.name!r} reads pictures with alpha; add the term "
                f"Cutout() of fkdiff.rgba, which draws them"
            )
        by_frame = (reward.inputs, tap.inputs) == ("pixels", "video")
        remedy = "take PerFrame(reward)" if by_frame else f"wrap it for {tap.inputs}"
        raise TapError(
            f"{type(pipe).__name__} yields {tap.inputs}, but the reward "
            f"{reward.name!r} reads {reward.inputs}; {remedy}"
        )

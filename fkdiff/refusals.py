"""What `steer` refuses before a run, with the remedy."""

from collections.abc import Iterable, Sequence
from typing import Any

from fkdiff.taps import PipelineTap, TapError
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.tokens import TokenTap
from fkdiff.terms.reward import Reward
from fkdiff.terms.term import Term

__all__ = ["check_drawn", "check_read", "check_shared"]


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
    images = [k for k in expanded.arguments if k in ("image", "mask_image")]
    if images and hasattr(pipe, "_encode_vae_image"):
        raise TapError(
            f"group must be None for a call with {images[0]}: {type(pipe).__name__} "
            f"draws one encoding of it for all particles from the first one's generator; "
            f"give each process prompts of its own"
        )


def check_read(pipe: Any, tap: PipelineTap | TokenTap, rewards: Iterable[Reward]) -> None:
    """Refuse rewards that read what isn't drawn, which would fail at their first look.

    Arguments:
        pipe: The pipeline.
        tap: What watches it.
        rewards: Those that steer and those that are monitored.

    Raises:
        TapError: If there is one.
    """
    for reward in rewards:
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

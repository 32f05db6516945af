r"""What a pipeline keeps for each row beside the state, and puts back into it after a step.

Image-to-image, inpainting and image-to-video pipelines draw noise and encode images once, row by
row, and use them at every step. A particle that continues another one takes these along.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.carried import Carried
from fkdiff.taps.shadowing import shadowed

__all__ = ["PREPARING", "Conditioning", "kept_conditioning"]

PREPARING = ("prepare_latents", "prepare_mask_latents", "prepare_image_latents")


@dataclass
class Conditioning:
    """Per-row tensors that the pipeline prepared; its loop holds the very same objects.

    Arguments:
        rows: N.
        prepared: What each method returned, the state itself left out.
        carried: What the call drew in its own frame.
    """

    rows: int
    prepared: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    carried: Carried | None = None

    @property
    def masked(self) -> bool:
        """Whether the pipeline keeps a part of an image."""
        return bool(self.prepared.get("prepare_mask_latents"))

    def permute(self, pick: Callable[[Tensor], Tensor], moved: Sequence[Tensor] = ()) -> None:
        """Continue the rows that `pick` puts in the places of N others, or of copies of them.

        It happens in place, which is how the pipeline's loop gets to know.

        Arguments:
            pick: Continues rows.
            moved: Tensors of the call whose rows are continued elsewhere.
        """
        held = [v for values in self.prepared.values() for v in values if isinstance(v, Tensor)]
        own = [v for v in held if v.ndim > 2 and len(v) % self.rows == 0]
        more = [] if self.carried is None else self.carried.tensors([*held, *moved])
        for value in (*own, *more):
            value.copy_(pick(value))

    def blend(self, x: Tensor) -> Tensor:
        r"""Clean state as inpainting leaves it: $(1 - m) \cdot \mathrm{image} + m \cdot x$.

        Networks that know no masks get the known part of the image pasted in by the pipeline,
        after the scheduler's step and also after the last one.
        """
        latents = self.prepared.get("prepare_latents", ())
        masks = self.prepared.get("prepare_mask_latents", ())
        if len(latents) < 2 or not masks or latents[1].shape != x.shape:
            return x
        mask = masks[0][: self.rows]
        return (1 - mask) * latents[1] + mask * x


@contextmanager
def kept_conditioning(
    pipe: Any, shards: Shards, given: Mapping[str, Any]
) -> Iterator[Conditioning]:
    """Keep hold of what the pipeline prepares for each row while the block lasts.

    Arguments:
        pipe: The pipeline.
        shards: Which rows are here.
        given: Arguments of its call.
    """
    kept = Conditioning(len(shards.rows), carried=Carried(pipe, shards, given))
    names = [name for name in PREPARING if hasattr(pipe, name)]
    methods = {name: _keeping(kept, name, getattr(pipe, name)) for name in names}
    with shadowed(pipe, **methods):
        yield kept


def _keeping(kept: Conditioning, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def prepare(*args: Any, **kwargs: Any) -> Any:
        out = method(*args, **kwargs)
        if name == "prepare_latents" and not isinstance(out, tuple):
            return out
        values = out if isinstance(out, tuple) else (out,)
        state = values[: name == "prepare_latents"]
        # Copies of our own: the user's tensors may be among them, and are never written to.
        rest = tuple(v.clone() if isinstance(v, Tensor) else v for v in values[len(state) :])
        kept.prepared.setdefault(name, rest)  # a call within the call keeps its own
        return (*state, *rest) if isinstance(out, tuple) else rest[0]

    return prepare

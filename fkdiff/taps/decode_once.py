"""Decoding equal latents once: the pipeline's tail decodes what a reward has just looked at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fkdiff.taps.shadowing import shadowed
from fkdiff.terms.memory import Batched, within_memory

__all__ = ["memoised_decode"]


@contextmanager
def memoised_decode(
    pipe: Any, holder: Batched, counted: Callable[[int], None]
) -> Iterator[dict[str, bool]]:
    """Decode equal latents once, a row at a time where asked, while the block lasts.

    The pipeline's tail decodes what the reward has just looked at; set `keep` in the yielded
    dictionary before the last transition, so that it finds those rows again.

    Arguments:
        pipe: A pipeline, with or without a `vae`.
        holder: With `micro_batch` None all rows are decoded at once, and one after the other with
            any number, or where memory runs out.
        counted: Gets the number of rows that were really decoded.
    """
    state = {"keep": False}
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield state
        return
    # Imported where a pipeline is tapped: diffusers.models alone costs seconds at import.
    from diffusers.models.autoencoders.vae import DecoderOutput

    original = vae.decode
    memory: dict[bytes, Tensor] = {}

    def decode(z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        if "num_frames" in kwargs:  # rows are frames here, and belong together
            counted(len(z))
            return original(z, *args, return_dict=return_dict, **kwargs)
        keys = [row.detach().cpu().float().numpy().tobytes() for row in z]
        rows = [i for i, k in enumerate(keys) if k not in memory and keys.index(k) == i]
        fresh: dict[bytes, Tensor] = {}
        if rows:
            fresh = dict(zip((keys[i] for i in rows), run(z, rows, args, kwargs), strict=True))
            counted(len(rows))
        samples = torch.stack([memory[k] if k in memory else fresh[k] for k in keys])
        if not rows:
            memory.clear()  # the tail has found them; its own copies need the room
        elif state["keep"]:
            memory.update(fresh)
        return DecoderOutput(sample=samples) if return_dict else (samples,)

    def run(z: Tensor, rows: list[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        def of(value: Any, part: list[int]) -> Any:
            per_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(z)
            return value[part] if per_row else value

        def few(_: int) -> Tensor:
            # At full resolution a row takes more than in the denoiser; VAE slicing takes one, too.
            size, out = 1 if holder.micro_batch else len(rows), []
            for part in (rows[i : i + size] for i in range(0, len(rows), size)):
                named = {name: of(value, part) for name, value in kwargs.items()}
                given = (of(value, part) for value in args)
                out.append(original(z[part], *given, return_dict=False, **named)[0])
            return torch.cat(out)

        return within_memory(holder, len(rows), few)

    with shadowed(vae, decode=decode):
        yield state

"""Two prompts under a mask on a pipeline: the other one evaluated where it differs, and mixed."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.attention import AttentionMaps, grid_of
from fkdiff.taps.batching import Axes, batch_of, cuts, sliced
from fkdiff.taps.capture import LIVE, captured, with_prompt, with_state
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.denoiser import NetworkCall, networks
from fkdiff.taps.outputs import rewritten, rows_of
from fkdiff.terms.clock import within
from fkdiff.terms.memory import Batched
from fkdiff.terms.regions import Regions

__all__ = ["TappedRegions", "picture_shape"]


@dataclass
class TappedRegions:
    """Mixes what the network predicts for the subject and for the background.

    Arguments:
        pipe: The pipeline.
        term: The two prompts.
        expanded: Arguments of the call.
        starts: Each row's generator as it was before the run.
        shards: The particles here.
        holder: Says how many particles a network call has, None for all.
        axes: Finds the rows in a network's arguments.
        maps: Attention of the subject's rows; None where it isn't recorded.
    """

    pipe: Any
    term: Regions
    expanded: Expanded
    starts: Sequence[torch.Generator]
    shards: Shards
    holder: Batched
    axes: Axes | None = None
    maps: AttentionMaps | None = None
    _others: list[tuple[str, inspect.BoundArguments]] = field(default_factory=list)
    _contrast: list[tuple[str, inspect.BoundArguments]] = field(default_factory=list)
    _changed: dict[int, list[int]] = field(default_factory=dict)
    _outputs: dict[int, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.term.recording:
            tokens = [
                self.term.tokens(self.pipe, prompt, self.expanded.arguments)  # pyright: ignore
                for prompt in self.expanded.prompts
            ]
            each = len(self.starts) // len(tokens)
            self.maps = AttentionMaps(
                [places for places in tokens for _ in range(each)],
                picture_shape(self.pipe, self.expanded.arguments),
                self.term.cells,  # pyright: ignore[reportAttributeAccessIssue]
                self.term.layers,  # pyright: ignore[reportAttributeAccessIssue]
            )

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Encode the background's prompt and read attention while the block lasts.

        Raises:
            TapError: If the pipeline takes no prompt, or attention can't be read.
        """
        arguments = with_prompt(self.pipe, self.expanded.arguments, self.term.background)
        with self.maps.hooked(networks(self.pipe)) if self.maps is not None else nullcontext():
            self._others = captured(self.pipe, arguments, self.starts)
            if self.expanded.arguments.get("prompt") is None:
                # The negative prompt may be embedded too, and be another than the background's.
                arguments = with_prompt(self.pipe, arguments, f"not {self.term.background}")
                self._contrast = captured(self.pipe, arguments, self.starts)
            yield

    def watched(self, place: int, bound: inspect.BoundArguments, progress: float) -> Any:
        """Record the attention of a call's subject rows; nothing outside the term's window."""
        if self.maps is None or not within(getattr(self.term, "window", None), progress):
            return nullcontext()
        batch, rows = batch_of(bound), len(self.starts)
        index = torch.full((batch,), -1)
        for half in self._halves(place, bound, batch):
            index[half * rows : (half + 1) * rows] = torch.arange(rows)
        seen = torch.cat(cuts(batch, self.shards, self.holder.micro_batch))
        return self.maps.watching(index[seen])

    def blended(
        self, place: int, call: NetworkCall, bound: inspect.BoundArguments, out: Any
    ) -> Any:
        """An output for the subject's prompt, with the background's outside the mask.

        Arguments:
            place: Which of a step's calls it is.
            call: The call.
            bound: What the subject's prompt is evaluated with.
            out: The network's output for it.
        """
        if self.term.mask is None:
            return out
        rows = len(self.starts)
        if self._outputs is None:
            # The base's own output comes first: what the prompt doesn't change is taken from it.
            changed = self._halves(place, bound, call.batch)
            other, own = with_state(self._others[place][1], bound), rows_of(out).split(rows)
            self._outputs = {
                half: rows_of(call.evaluate(self._half(half, other, call.batch)))
                if half in changed
                else own[half]
                for half in range(call.batch // rows)
            }
        mixed = rows_of(out).clone()
        weights = self._weights(mixed)
        for half, behind in self._outputs.items():
            part = mixed[half * rows : (half + 1) * rows]
            part.copy_(weights * part + (1 - weights) * behind)
        return rewritten(out, mixed)

    @property
    def recording(self) -> bool:
        """Whether the attention of a network call is being recorded."""
        return self.maps is not None and self.maps.recording

    def cut(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of rows (n,) of the run with alpha, (n, 4, h, w)."""
        assert self.maps is not None
        maps = self.maps.maps(rows)
        return self.term.matte(pixels, maps)  # pyright: ignore[reportAttributeAccessIssue]

    def permute(self, pick: Callable[[Tensor], Tensor]) -> None:
        """Let recorded attention follow the particles."""
        if self.maps is not None:
            self.maps.permute(pick)

    def forget(self) -> None:
        """Drop the background's outputs of a call that is over."""
        self._outputs = None

    def _halves(self, place: int, bound: inspect.BoundArguments, batch: int) -> list[int]:
        """Parts of a call whose conditions the prompt changes: the conditional ones."""
        if place not in self._changed:
            if place >= len(self._others):
                raise TapError(
                    "the background's prompt makes fewer network calls a step than the "
                    "subject's; give both the same guidance"
                )
            rows, other = len(self.starts), self._others[place][1]
            bound = self._contrast[place][1] if self._contrast else bound
            pairs = (
                (self._half(h, bound, batch), self._half(h, other, batch))
                for h in range(batch // rows)
            )
            self._changed[place] = [
                half for half, pair in enumerate(pairs) if not _same_conditions(*pair)
            ]
        return self._changed[place]

    def _half(self, half: int, bound: inspect.BoundArguments, batch: int) -> Any:
        rows = len(self.starts)
        return sliced(bound, batch, half * rows, rows, self.axes)

    def _weights(self, rows: Tensor) -> Tensor:
        assert self.term.mask is not None
        if rows.ndim == 3:  # packed into a sequence of cells
            grid = grid_of(rows.shape[1], picture_shape(self.pipe, self.expanded.arguments))
            return self.term.mask.weights(*grid).reshape(1, -1, 1).to(rows)
        return self.term.mask.weights(*rows.shape[-2:]).to(rows)


def picture_shape(pipe: Any, arguments: dict[str, Any]) -> tuple[int, int]:
    """Height and width of what a call draws; square where it doesn't say."""
    given = arguments.get("height"), arguments.get("width")
    usual = getattr(pipe, "default_sample_size", None)
    for network in networks(pipe).values():
        usual = usual or getattr(getattr(network, "config", None), "sample_size", None)
    side = usual if isinstance(usual, int) else 64
    side = side * int(getattr(pipe, "vae_scale_factor", 1))
    return int(given[0] or side), int(given[1] or side)


def _same_conditions(one: inspect.BoundArguments, other: inspect.BoundArguments) -> bool:
    """Whether two calls agree in all but the state and the time."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.shape == b.shape and bool(torch.equal(a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            return all(same(a[key], b.get(key)) for key in a)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            return len(a) == len(b) and all(map(same, a, b))
        return True

    names = one.arguments.keys() - LIVE
    return all(same(one.arguments[name], other.arguments.get(name)) for name in names)

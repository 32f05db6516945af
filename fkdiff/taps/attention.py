r"""Attention maps of a pipeline's network while it runs: what each cell looks at.

Hooks before chosen attention layers read the very queries and keys that the layer's own processor
is about to use, and compute $\mathrm{softmax}(Q K^\top / \sqrt d)$ beside it: processors, and what
the network returns, stay as they are. Kept are running sums in float32, one for each size of grid,
never a layer's own maps.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fkdiff.taps.coefficients import TapError
from fkdiff.taps.looks import Looks, attention_layers, looks, reads_text

__all__ = ["AttentionMaps", "grid_of"]


def grid_of(cells: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many cells over a picture of this shape (height, width).

    >>> grid_of(24, (64, 96)), grid_of(64, (512, 512))
    ((4, 6), (8, 8))

    Raises:
        TapError: If there is no such grid.
    """
    rows = [r for r in range(1, cells + 1) if cells % r == 0]
    ratio = shape[0] / shape[1]
    best = min(rows, key=lambda r: abs(math.log(r * r / cells / ratio)))
    if abs(math.log(best * best / cells / ratio)) > 0.7:
        raise TapError(f"{cells} cells make no grid over a picture of {shape[0]}x{shape[1]}")
    return best, cells // best


@dataclass
class AttentionMaps:
    """Running sums of what N rows' cells look at, by the size of the grid.

    Arguments:
        tokens: Places of each row's subject among the text tokens, N lists.
        shape: Height and width of the picture.
        most: Cells up to which self-attention is kept.
        layers: Parts of names of the layers to read; None reads all.
    """

    tokens: Sequence[Sequence[int]]
    shape: tuple[int, int]
    most: int = 1024
    layers: tuple[str, ...] | None = None
    _cross: dict[int, Tensor] = field(default_factory=dict)
    _own: dict[int, Tensor] = field(default_factory=dict)
    _counts: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _rows: Tensor | None = None
    _seen: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def hooked(self, networks: dict[str, nn.Module]) -> Iterator["AttentionMaps"]:
        """Read the networks' layers while the block lasts; the hooks go whatever ends it.

        Raises:
            TapError: If no layer tells how cells look at text.
        """
        with ExitStack() as stack:
            texts = 0
            for part, network in networks.items():
                for name, layer in attention_layers(network, self.layers).items():
                    texts += reads_text(layer)
                    hook = self._hook(f"{part}.{name}")
                    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(handle.remove)
            if not texts:
                chosen = "" if self.layers is None else f" named {', '.join(self.layers)}"
                raise TapError(
                    f"the network has no readable attention from image to text{chosen}; cut its "
                    f"pictures out with a prior of your own: fkdiff.rgba.cut_out(image, prior)"
                )
            yield self

    @contextmanager
    def watching(self, rows: Tensor) -> Iterator[None]:
        """Record a network call: row of the run that each of the batch is, -1 for none."""
        self._rows, self._seen = rows, {}
        try:
            yield
        finally:
            self._rows = None

    @property
    def recording(self) -> bool:
        """Whether a network call is being recorded."""
        return self._rows is not None

    def permute(self, pick: Callable[[Tensor], Tensor]) -> None:
        """Continue the rows that `pick` puts in the places of N others."""
        self._cross = {k: pick(v) for k, v in self._cross.items()}
        self._own = {k: pick(v) for k, v in self._own.items()}
        self._counts = {k: pick(v) for k, v in self._counts.items()}

    def state(self) -> dict[str, list[tuple[str, int, Tensor]]]:
        """The running sums, in the order in which they are added up."""
        sums = (("cross", self._cross), ("own", self._own))
        return {
            "sums": [(kind, size, v) for kind, kept in sums for size, v in kept.items()],
            "counts": [(kind, size, v) for (kind, size), v in self._counts.items()],
        }

    def restore(self, saved: dict[str, Any], device: torch.device) -> None:
        """Go on from a `state`."""
        sums = {
            part: {size: v.to(device) for kind, size, v in saved["sums"] if kind == part}
            for part in ("cross", "own")
        }
        self._cross, self._own = sums["cross"], sums["own"]
        self._counts = {(kind, size): v.to(device) for kind, size, v in saved["counts"]}

    def maps(self, rows: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Cross-attention (n, h, w) and self-attention (n, h w, h w) of rows on the finest grid.

        Returns None where nothing was recorded, and no self-attention where no layer has any.
        """
        if not self._cross:
            return None
        finest = max(self._own or self._cross)
        grid = grid_of(finest, self.shape)
        cross = self._mean("cross", self._cross, rows)
        seen = torch.stack([_enlarged(m, self.shape, grid) for m in cross[0].values()])
        total = (seen * cross[1]).sum(0) / cross[1].sum(0)
        if not self._own:
            return total.reshape(-1, *grid), None
        own = self._mean("own", self._own, rows)
        spread = torch.stack([self._widened(m, grid) for m in own[0].values()])
        return total.reshape(-1, *grid), (spread * own[1]).sum(0) / own[1].sum(0)

    def _mean(
        self, kind: str, sums: dict[int, Tensor], rows: Tensor
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Means by size of grid, and how many maps went into each, (sizes, n, 1...)."""
        rows = rows.to(next(iter(sums.values())).device)
        counts = {size: self._counts[kind, size][rows] for size in sums}
        means = {}
        for size, total in sums.items():
            by = counts[size].clamp(min=1).reshape(-1, *[1] * (total.ndim - 1))
            means[size] = total[rows] / by
        stacked = torch.stack(list(counts.values()))
        return means, stacked.reshape(*stacked.shape, *[1] * (1 if kind == "cross" else 2))

    def _widened(self, own: Tensor, grid: tuple[int, int]) -> Tensor:
        """Self-attention (n, c, c) between the cells of a finer grid; rows still sum to 1."""
        if own.shape[1] == grid[0] * grid[1]:
            return own
        keys = _enlarged(own.flatten(0, 1), self.shape, grid).unflatten(0, own.shape[:2])
        both = _enlarged(keys.transpose(1, 2).flatten(0, 1), self.shape, grid)
        wide = both.unflatten(0, (len(own), -1)).transpose(1, 2)
        return wide / wide.sum(2, keepdim=True).clamp(min=1e-12)

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._rows is None:
                return
            given = {**kwargs, **({"hidden_states": args[0]} if args else {})}
            start = self._seen.get(name, 0)
            batch = len(given["hidden_states"])
            self._seen[name] = start + batch
            rows = self._rows[start : start + batch]
            if (rows >= 0).any():
                self._record(layer, given, rows)

        return hook

    @torch.no_grad()
    def _record(self, layer: nn.Module, given: dict[str, Any], rows: Tensor) -> None:
        chosen = (rows >= 0).nonzero()[:, 0]
        batch = len(rows)
        part = {
            key: value[chosen.to(value.device)]
            if isinstance(value, Tensor) and value.ndim > 1 and len(value) == batch
            else value
            for key, value in given.items()
        }
        found = looks(layer, part, self.most)
        if found is None:
            return
        for kind, kept, value in (
            ("cross", self._cross, None if found.text is None else self._on_subject(found, rows)),
            ("own", self._own, found.own),
        ):
            if value is not None:
                self._add(kind, kept, value, rows[chosen])

    def _on_subject(self, found: Looks, rows: Tensor) -> Tensor:
        """Mean of the subject's tokens, (n, cells)."""
        assert found.text is not None
        last = found.text.shape[2]
        means = []
        for text, row in zip(found.text, rows[rows >= 0].tolist(), strict=True):
            places = [token for token in self.tokens[row] if token < last]
            means.append(text[:, places or slice(None)].mean(1))
        return torch.stack(means)

    def _add(self, kind: str, kept: dict[int, Tensor], value: Tensor, rows: Tensor) -> None:
        size, rows = value.shape[1], rows.to(value.device)
        if size not in kept:
            kept[size] = value.new_zeros(len(self.tokens), *value.shape[1:])
            self._counts[kind, size] = value.new_zeros(len(self.tokens))
        kept[size].index_add_(0, rows, value)
        self._counts[kind, size].index_add_(0, rows, torch.ones(len(rows)).to(value))


def _enlarged(maps: Tensor, shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Maps (n, cells) of any grid over the picture on another one, (n, cells)."""
    own = grid_of(maps.shape[1], shape)
    if own == grid:
        return maps
    wide = F.interpolate(maps.reshape(-1, 1, *own), grid, mode="bilinear", antialias=True)
    return wide.flatten(1)

"""What rewards look at: clean latents of a run as the pipeline's own tail would hand them over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.streams import copies
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.decode import decoder_for, yields
from fkdiff.taps.null_run import null_run
from fkdiff.taps.per_prompt import PerPrompt
from fkdiff.taps.regions import TappedRegions
from fkdiff.terms.cost import Cost
from fkdiff.terms.rows import joined

__all__ = ["Samples"]


@dataclass
class Samples:
    """Decodes latents of rows as rewards ask for them.

    Known families have a decoder; the tail of another pipeline decodes in a null run.

    Arguments:
        pipe: The pipeline.
        expanded: Arguments of the call.
        starts: Each row's generator as it was before the run.
        cost: Counts what is spent.
        alpha: Whether pictures come out with alpha.
        regions: Tells the alpha, while the run lasts.
        template: A network's output, which the null run imitates.
        origin: Row that each row began in, (N,); None before anything was resampled.
    """

    pipe: Any
    expanded: Expanded
    starts: Sequence[torch.Generator]
    cost: Cost
    alpha: bool = False
    regions: TappedRegions | None = None
    template: Any = None
    origin: Tensor | None = None

    @property
    def inputs(self) -> str:
        """What the pipeline yields: "pixels", "video" or "audio"."""
        return yields(self.pipe)

    @property
    def by_row(self) -> bool:
        """Whether samples depend on their rows: the pipeline's own tail keeps images of them."""
        return decoder_for(self.pipe) is None

    @property
    def readable(self) -> tuple[str, ...]:
        """What rewards may read."""
        cut = self.alpha and self.inputs == "pixels"
        return ("latents", self.inputs, *(("rgba",) if cut else ()))

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Latents (n, *) as a reward reads them.

        Arguments:
            latents: Clean latents.
            inputs: What the reward reads.
            rows: Rows of the run that they are, (n,); None for the first n.

        Raises:
            TapError: If the pipeline can't yield `inputs`.
        """
        if inputs == "latents":
            return latents
        if inputs == "rgba" and inputs in self.readable and rows is not None:
            return self.cut(self.decode(latents, "pixels"), rows)
        if inputs != self.inputs:
            name = type(self.pipe).__name__
            raise TapError(f"{name} yields {self.inputs}, but a reward reads {inputs}")
        decoder = decoder_for(self.pipe)
        with self.cost.time("decode"), torch.no_grad():
            if decoder is None:
                return self._by_own_tail(latents, rows)
            if getattr(self.pipe, "vae", None) is None:
                self.count(len(latents))
            return decoder.run(self.pipe, latents, self.expanded.arguments).float()

    def cut(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) of rows (n,) of the run with alpha, (n, 4, h, w)."""
        assert self.regions is not None
        with self.cost.time("matte"):
            return self.regions.cut(pixels, rows)

    def count(self, rows: int) -> None:
        """Rows that were decoded."""
        self.cost.decodes += rows

    @property
    def _by_prompt(self) -> PerPrompt:
        """The call by prompt; arguments that were expanded elsewhere count as they are."""
        whole, key = self.expanded.arguments, self.expanded.key
        given = {name: value for name, value in whole.items() if name != key}
        return self.expanded.inputs or PerPrompt(type(self.pipe).__name__, given, key)

    def _by_own_tail(self, latents: Tensor, rows: Tensor | None) -> Any:
        """Samples of latents (n, *) by null runs, one for each prompt that has its own image."""
        rows = torch.arange(len(latents)) if rows is None else rows.cpu()
        began = rows if self.origin is None else self.origin[rows]
        inputs = self._by_prompt
        prompt = rows // max(1, len(self.starts) // inputs.prompts)
        # Without images any prompt will do: what a loop does with it is undone when the latents
        # are handed over.
        prompt = prompt if inputs.images else torch.zeros_like(prompt)
        parts = [(int(p), (prompt == p).nonzero()[:, 0]) for p in prompt.unique()]
        made = [
            # While rewards are asked, the pipeline has its own scheduler.
            null_run(
                self.pipe,
                self.pipe.scheduler,
                self._null_arguments(inputs.call([p], len(own)), began[own].tolist()),
                self.template,
                latents[own.to(latents.device)],
            )
            for p, own in parts
        ]
        return joined(made, [own for _, own in parts])

    def _null_arguments(self, given: dict[str, Any], began: list[int]) -> dict[str, Any]:
        """Arguments of a call that yields samples of rows that began in these."""
        for name in ("callback_on_step_end", "latents"):
            given.pop(name, None)
        if "strength" in given:
            given["strength"] = 1.0  # two steps of the null run must not become none
        # Encoded images come out as in the run, and nothing is drawn from the global state.
        return {**given, "output_type": "np", "generator": copies(self.starts[i] for i in began)}

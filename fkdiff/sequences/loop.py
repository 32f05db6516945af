"""The loop over sequences that hands each transition to the engine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fkdiff.loops import facts
from fkdiff.processes.gaussian import Kernel
from fkdiff.processes.simplex import GumbelPath, Simplex, centre, gumbel, simplex_step
from fkdiff.processes.streams import Seed, SlotNoise
from fkdiff.run import Run
from fkdiff.sequences.alphabet import Alphabet, one_hot, tokens_of
from fkdiff.sequences.guidance import StraightThrough
from fkdiff.sequences.losses import Network
from fkdiff.sequences.scheduler import pushed
from fkdiff.terms.clock import progress_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import in_parts
from fkdiff.terms.step import Step
from fkdiff.terms.trial import StandIn

__all__ = ["SequenceLoop", "drawn_letters"]


@dataclass
class SequenceLoop:
    """Owns the centred logits; decodes for the rewards.

    Arguments:
        net: (z, alpha, sigma, mask=, labels=) -> logits of the posterior.
        path: Schedule.
        guidance: Pushes the steps, None for none.
        mask: Where each particle has letters, shape (N, L), bool.
        labels: Class numbers, shape (N,), None for any.
        alphabet: For rewards that read text.
        eta: Noise of the step, 0 for the deterministic flow.
        micro_batch: Rows per network and reward call, None for all at once.
        run: The engine.
    """

    net: Network
    path: GumbelPath
    guidance: StraightThrough | None
    mask: Tensor
    labels: Tensor | None
    alphabet: Alphabet | None
    eta: float
    micro_batch: int | None
    run: Run
    cost: Cost = field(init=False, repr=False)
    _parents: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.cost = self.run.cost

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Points of the simplex as a reward reads them."""
        if inputs in ("simplex", "latents"):
            return latents
        if inputs == "tokens":
            return tokens_of(latents)
        if inputs == "text" and self.alphabet is not None:
            return [self.alphabet.decode(row) for row in tokens_of(latents)]
        raise ValueError(
            f"rewards must read simplex, tokens or text (with an alphabet), got {inputs!r}; "
            f"wrap the function: as_reward(fn, inputs='text')"
        )

    def stand_in(self, inputs: str) -> StandIn:
        """Two made-up sequences of the lengths that are drawn."""
        generator = torch.Generator().manual_seed(0)
        mask, letters = self.mask[[0, -1]], self.path.categories
        tokens = torch.randint(letters, mask.shape, generator=generator)
        points = one_hot(torch.where(mask.cpu(), tokens, -1), letters)
        return StandIn(self.decode(points.to(self.mask.device), inputs))

    def __call__(
        self, steps: int, seed: Seed, bar: Callable[[Iterable[Any]], Iterable[Any]]
    ) -> None:
        """Run all transitions."""
        shape = (self.mask.shape[1], self.path.categories)
        noise = SlotNoise(seed, len(self.run.prompts), self.run.shards.slots, shape)
        draws = self._guidance_draws(seed)
        start = torch.special.ndtr(noise.draw().double())
        z = self._inside(centre(float(self.path.sigma(0.0)) * gumbel(start)).float())
        self._parents = torch.arange(len(z))
        for index, levels in enumerate(bar(list(self.path.transitions(steps)))):
            z = self._transition(index, steps, z, levels, noise, draws)

    def _guidance_draws(self, seed: Seed) -> SlotNoise | None:
        """Streams of the guidance's one-hot draws, apart from the noise."""
        if self.guidance is None:
            return None
        shape = (self.guidance.draws, self.mask.shape[1])
        slots = self.run.shards.slots
        return SlotNoise(seed, len(self.run.prompts), slots, shape, purpose="guidance")

    def _transition(
        self,
        index: int,
        total: int,
        z: Tensor,
        levels: Simplex,
        noise: SlotNoise,
        draws: SlotNoise | None,
    ) -> Tensor:
        logits = self._logits(z, levels)
        p = self._inside(logits.softmax(-1))
        kernel = simplex_step(z, logits.softmax(-1), levels, self.eta)
        plain = Kernel(self._inside(kernel.mean), kernel.std)
        guided = plain
        if self.guidance is not None and draws is not None:
            uniform = torch.special.ndtr(draws.draw())
            if self.guidance.active(progress_of(index, total)):
                guided = pushed(plain, self._drift(z, logits, levels, uniform), levels)
        drawn = guided.mean
        if guided.std:
            drawn = drawn + guided.std * self._inside(centre(noise.draw()))
        ended = index == total - 1
        step = Step(
            **facts(self.run, index, total),
            x=z,
            x_next=self._vertices(drawn) if ended else drawn,
            path=None,
            parents=self._parents,
            source=self,
            estimate=lambda: p,
            kernel=plain if plain.std else None,
            correction=self._ratio(plain, guided, drawn),
            draw=lambda rows, streams, draws: drawn_letters(p[rows.to(p.device)], streams, draws),
        )
        rows = self.run.transition(step)
        self._parents = torch.arange(len(z)) if rows is None else rows
        return drawn if rows is None or ended else drawn[rows]

    def _ratio(self, plain: Kernel, guided: Kernel, drawn: Tensor) -> Tensor | None:
        """Log proposal ratio of the guidance, shape (P, K)."""
        if self.guidance is None or not self.guidance.reweight:
            return None
        if guided is plain:
            return torch.zeros_like(self.run.log_w)
        ratio = plain.log_prob(drawn) - guided.log_prob(drawn)
        return ratio.reshape(self.run.log_w.shape).cpu()

    def _logits(self, z: Tensor, levels: Simplex) -> Tensor:
        def few(rows: slice) -> Tensor:
            labels = None if self.labels is None else self.labels[rows]
            return self.net(
                z[rows], levels.alpha, levels.sigma, mask=self.mask[rows], labels=labels
            )

        with self.cost.time("denoise"):
            logits = in_parts(self, len(z), few)
        self.cost.denoiser_evaluations += len(z)
        return logits.float()

    def _drift(self, z: Tensor, logits: Tensor, levels: Simplex, uniform: Tensor) -> Tensor:
        assert self.guidance is not None
        guidance: StraightThrough = self.guidance
        guide: Any = guidance.guide

        def few(rows: slice) -> Tensor:
            parts = (z[rows], logits[rows]), (self.mask[rows], uniform[rows])
            return guidance.drift(*parts[0], levels, *parts[1])

        with self.cost.time("guide"):
            drift = in_parts(self, len(logits), few)
        calls, name = self.cost.reward_calls, f"{guide.name} (gradient)"
        calls[name] = calls.get(name, 0) + len(logits) * guidance.draws
        return drift

    def _inside(self, values: Tensor) -> Tensor:
        return values * self.mask[..., None]

    def _vertices(self, z: Tensor) -> Tensor:
        tokens = torch.where(self.mask, z.argmax(-1), -1)
        return one_hot(tokens, z.shape[-1])


def drawn_letters(p: Tensor, streams: Sequence[torch.Generator], draws: int) -> Tensor:
    """Sequences drawn letter by letter from posteriors (n, L, K), shape (draws, n, L, K)."""
    u = [torch.rand((draws, p.shape[1], 1), generator=g, dtype=torch.float64) for g in streams]
    levels = p.double().cumsum(-1)
    tokens = (torch.stack(u, 1).to(p.device) * levels[..., -1:] >= levels).sum(-1)
    return one_hot(torch.where(p.sum(-1) > 0, tokens, -1), p.shape[-1])

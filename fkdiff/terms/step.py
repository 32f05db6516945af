"""One transition of a run, as the terms see it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from fkdiff.processes import Gaussian, Kernel
from fkdiff.processes.shards import Shards
from fkdiff.processes.streams import Seed, row_streams
from fkdiff.processes.tokens import TokenStep
from fkdiff.terms.clock import progress_of
from fkdiff.terms.cost import Cost
from fkdiff.terms.draws import Draw, draws_around
from fkdiff.terms.memory import within_memory
from fkdiff.terms.reward import Reward, Where, evaluate
from fkdiff.terms.rows import alike, joined, picked

__all__ = ["Expert", "Source", "Step"]


@dataclass(frozen=True)
class Expert:
    """One factor of the pool's target: a network output and its exponent.

    Arguments:
        name: "cond", "uncond", "tuned/cond", ...
        b: Exponent in the product of densities.
        output: Raw prediction, shape (N, *), learned variance dropped.
    """

    name: str
    b: float
    output: Tensor


class Source(Protocol):
    """What a step asks of whoever runs the loop (a tapped pipeline or our own)."""

    cost: Cost
    micro_batch: int | None

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Turn latents (n, *) of rows (n,) into what a reward reads: pixels, video, ..."""
        ...


@dataclass(eq=False)
class Step:
    """One transition x -> x_next of N = P * K rows, prompt-major.

    Where the cloud is shared by several processes, what has a row for each particle holds the
    rows of this process alone, and n of them stand for N below; log-weights and scores are those
    of all particles, on every process.

    Arguments:
        index: Transition, counted from 0.
        total: Number of transitions of the run.
        x: State before the transition, shape (N, *).
        x_next: State after it, same shape.
        path: Coefficients before and after; None where the scheduler doesn't tell.
        prompts: P.
        particles: K.
        context: Per-row keywords for rewards: `prompts` is a list of N strings.
        log_w: Log-weights before this transition, shape (P, K), float64.
        may_resample: Whether the trigger can fire here; False spares intermediate rewards.
        parents: Rows of the run that shared their state with each of its N rows when the step
            began, shape (N,).
        source: Decodes and counts.
        estimate: Computes the denoised estimate, called at most once.
        pool: Computes the experts, called at most once.
        kernel: The transition kernel, None where it depends on solver history.
        correction: What a corrector adds to the log-weights, shape (P, K), float64.
        seed: Of the draws of x0, which have a stream for each transition and row; one for all
            prompts or one for each.
        draw: (rows (U,), U generators, draws) -> draws of x0 given x, shape (draws, U, *); None
            for draws around the estimate of a Gaussian path.
        shards: Which rows are here; None where all are.
    """

    index: int
    total: int
    x: Tensor
    x_next: Tensor
    path: Gaussian | TokenStep | None
    prompts: int
    particles: int
    context: Mapping[str, Sequence[Any]]
    log_w: Tensor
    may_resample: bool
    parents: Tensor
    source: Source
    estimate: Callable[[], Tensor]
    pool: Callable[[], tuple[Expert, ...]] = tuple
    kernel: Kernel | None = None
    correction: Tensor | None = None
    seed: Seed = 0
    draw: Draw | None = None
    shards: Shards | None = None
    _decoded: dict[str, Any] = field(default_factory=dict, repr=False)
    _scores: dict[int, tuple[Reward, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def final(self) -> bool:
        """Whether this is the run's last transition."""
        return self.index == self.total - 1

    @property
    def progress(self) -> float:
        """Share of the run that is done after this transition, in (0, 1]; see `progress_of`."""
        return progress_of(self.index, self.total)

    @cached_property
    def experts(self) -> tuple[Expert, ...]:
        """The pool of experts whose weighted sum moved the particles."""
        return self.pool()

    @cached_property
    def x0(self) -> Tensor:
        """Denoised estimate, shape (N, *); on the final transition the sample itself."""
        return self.x_next if self.final else self.estimate()

    @cached_property
    def _held(self) -> Shards:
        return self.shards or Shards(self.prompts, self.particles)

    @cached_property
    def unique(self) -> tuple[Tensor, Tensor]:
        """Rows here that must be looked at, shape (U,), and who stands for each row of the run.

        Copies made by the last resampling still agree bit for bit until noise separates them;
        tokens also agree by chance.
        """
        if self._discrete:
            first, place = alike(self.x0, self._texts)
            return first, first[place]
        parents, everyone = self.parents.cpu(), self._held.everyone
        if torch.equal(parents, everyone):  # no copies were made
            return self._held.places, everyone
        same = self._held.agree(self.x0, parents)
        stands = torch.where(same, parents, everyone)
        return self._held.local(stands), stands

    def x0_draws(self, draws: int) -> Tensor:
        r"""Draws of x0 given x for each unique row, shape (draws, U, *).

        On a Gaussian path from $N(\hat x_0, \tau^2)$, $\tau^2 = \sigma^2 / (\alpha^2 + \sigma^2)$:
        the posterior's variance if x0 had unit variance.
        """
        rows = self.unique[0]
        streams = self._streams(rows)
        if self.draw is not None:
            return self.draw(rows, streams, draws)
        return draws_around(self.x0[rows.to(self.x0.device)], self.path, streams, draws)

    def _streams(self, rows: Tensor) -> list[torch.Generator]:
        of_run = self._held.rows[rows].tolist()
        return row_streams(self.seed, self.particles, of_run, "draws", self.index)

    def decode(self, inputs: str) -> Any:
        """Unique rows of the estimate as a reward reads them; decoded once a step."""
        if inputs not in self._decoded:
            self._decoded[inputs] = self._read(self.x0[self.unique[0].to(self.x0.device)], inputs)
        return self._decoded[inputs]

    def _read(self, x0: Tensor, inputs: str) -> Any:
        """Clean latents of the unique rows as a reward reads them; None for no rows."""
        # Alpha also wants the rows, whose attention tells what to cut; so does a pipeline's own
        # tail, which puts back what a row keeps of its image.
        by_row = inputs == "rgba" or getattr(self.source, "by_row", False)
        parts = [
            self.source.decode(
                x0[part.to(x0.device)], inputs, *((self.unique[0][part],) if by_row else ())
            )
            for part in self._parts
        ]
        return joined(parts, self._parts)

    @cached_property
    def _parts(self) -> list[Tensor]:
        """Micro-batches of the unique rows, the same at any number of processes."""
        return self._held.batches(self.source.micro_batch, self.unique[0])

    def decoded_samples(self, rows: Tensor | None = None) -> Tensor | None:
        """Rows of the run of what has been decoded already, None where nothing was.

        Arguments:
            rows: Which, shape (W,); None for all N.
        """
        if not self._decoded.keys() - {"latents"}:
            return None
        wanted = self.unique[1] if rows is None else self.unique[1][rows]
        # Alpha is preferred.
        for inputs, samples in sorted(self._decoded.items(), key=lambda item: item[0] != "rgba"):
            if inputs != "latents":
                shared = self._held.share(self._by_row(samples), wanted)
                if shared is not None:
                    return shared
        return None

    def _by_row(self, samples: Any) -> Tensor | None:
        """What was decoded in the places of all rows here, (n, *)."""
        if not isinstance(samples, Tensor):
            return None
        if len(samples) == len(self.x_next) and not self._discrete:
            return samples  # the unique rows ascend
        rows = samples.new_zeros(len(self.x_next), *samples.shape[1:])
        rows[self.unique[0].to(rows.device)] = samples
        return rows

    def score(self, reward: Reward) -> Tensor:
        """Raw reward of the estimate, shape (P, K), float64; each unique row scored once.

        Raises:
            RewardError: If the reward fails, or returns NaN or another shape.
        """
        if id(reward) not in self._scores:
            scores = self._by_slot(self._values(reward, self.decode(reward.inputs)))
            self._scores[id(reward)] = (reward, scores)
        return self._scores[id(reward)][1]

    def score_draws(self, reward: Reward, draws: int) -> Tensor:
        """Raw reward of each draw of x0, shape (draws, P, K), float64; their mean is recorded.

        Raises:
            RewardError: If the reward fails, or returns NaN or another shape.
        """
        if self._discrete:
            scores = self._score_tokens(reward, draws)
        else:
            drawn = self.x0_draws(draws) if len(self.unique[0]) else [self.x0[:0]] * draws
            scores = torch.stack(
                [
                    self._by_slot(self._values(reward, self._read(x0, reward.inputs)))
                    for x0 in drawn
                ]
            )
        self._scores[id(reward)] = (reward, scores.mean(0))
        return scores

    @property
    def _discrete(self) -> bool:
        return not self.x_next.is_floating_point()

    @property
    def _texts(self) -> list[str]:
        return list(self.context.get("prompts", [""] * len(self.x_next)))

    def _score_tokens(self, reward: Reward, draws: int) -> Tensor:
        """Raw reward of draws for all rows, (draws, P, K); equal ones are scored once."""
        rows, discrete = torch.arange(len(self.x_next)), self.draw
        assert discrete is not None
        x0 = discrete(rows, self._streams(rows), draws).flatten(0, 1)
        first, place = alike(x0, self._texts)
        samples = self.source.decode(x0[first.to(x0.device)], reward.inputs)
        values = self._values(reward, samples, first % len(rows))[place]
        return values.reshape(draws, self.prompts, self.particles)

    def _by_slot(self, values: Tensor) -> Tensor:
        """Scores (P, K) of the run from those of the unique rows here."""
        rows, stands = self.unique
        if rows is self._held.places:  # each row was scored
            return self._held.gather(values).reshape(self.prompts, self.particles)
        here = values.new_zeros(len(self.x_next))
        here[rows] = values
        return self._held.gather(here)[stands].reshape(self.prompts, self.particles)

    def _values(self, reward: Reward, samples: Any, rows: Tensor | None = None) -> Tensor:
        """Rewards of the unique rows or of others, shape (U,), counted and timed."""
        cost, whole = self.source.cost, rows is None
        rows = self.unique[0] if rows is None else rows

        def few(size: int) -> Tensor:
            places = torch.arange(len(rows))
            parts = self._held.batches(size, rows) if whole else list(places.split(size))
            values = list(self._evaluated(reward, samples, rows, parts))
            return joined(values, parts) if values else torch.zeros(0, dtype=torch.float64)

        with cost.time("reward"):
            values = within_memory(self.source, max(1, len(rows)), few)
        cost.reward_calls[reward.name] = cost.reward_calls.get(reward.name, 0) + len(rows)
        return values

    def _evaluated(
        self, reward: Reward, samples: Any, rows: Tensor, parts: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        for places in parts:
            part = rows[places]
            context = {k: _of_rows(v, part) for k, v in self.context.items()}
            where = Where(self.index, self.total, self._held.rows[part])
            yield evaluate(reward, picked(samples, places), context, where)

    @property
    def scores(self) -> dict[str, Tensor]:
        """What was scored at this transition, by reward name, shape (P, K)."""
        return {reward.name: values for reward, values in self._scores.values()}


def _of_rows(values: Sequence[Any], rows: Tensor) -> list[Any]:
    """What belongs to some rows, in their order."""
    if torch.equal(rows, torch.arange(len(values))):
        return list(values)
    return [values[row] for row in rows.tolist()]

"""Weighted particles of sequences: the loop that hands each transition to the engine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.gaussian import Kernel
from fkdiff.processes.simplex import GumbelPath, Simplex, centre, gumbel, simplex_step
from fkdiff.processes.streams import RowNoise, slot_generators, stream
from fkdiff.result import Result
from fkdiff.run import Run
from fkdiff.sequences.alphabet import Alphabet, one_hot
from fkdiff.sequences.guidance import StraightThrough
from fkdiff.sequences.losses import Network
from fkdiff.sequences.scheduler import pushed
from fkdiff.smc import Resample
from fkdiff.terms.cost import Cost
from fkdiff.terms.fk_steering import Tilt
from fkdiff.terms.reward import Reward
from fkdiff.terms.step import Step
from fkdiff.terms.term import Term

__all__ = ["sample_sequences", "sequences_of"]

_DEFAULT_RESAMPLE = Resample()


def sample_sequences(
    net: Network,
    path: GumbelPath,
    *terms: Term,
    lengths: Sequence[int],
    labels: Tensor | None = None,
    alphabet: Alphabet | None = None,
    steps: int = 50,
    eta: float = 1.0,
    particles: int = 4,
    resample: Resample | None = _DEFAULT_RESAMPLE,
    stochastic: bool | None = None,
    micro_batch: int | None = 256,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: int | None = None,
    bar: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Result:
    r"""Draw weighted particles from a Gumbel-softmax flow: one cloud for each design.

    The state is z, centred logits (N, L, K); the last transition ends on a vertex, the letter of
    the largest logit. Rewards read "simplex" (n, L, K), "tokens" (n, L), "text" or "latents": on
    the way the posterior of the tokens (its likeliest letters for tokens and text), at the end
    the sequence; padding is all zeros, or -1.

    Arguments:
        net: (z, alpha, sigma, mask=, labels=) -> logits of the posterior (n, L, K).
        path: Schedule.
        terms: `Tilt`s and at most one `StraightThrough`.
        lengths: Length of each of the P designs, at least 1.
        labels: Class number of each design, shape (P,), None for any.
        alphabet: For rewards that read text.
        steps: Transitions, at least 1.
        eta: Noise of the stochastic step, positive.
        particles: K of each design's cloud.
        resample: When and how to resample; None gives importance sampling.
        stochastic: False for the deterministic flow, which needs `resample=None` where weights
            can differ before the end, and guidance without its ratio.
        micro_batch: Rows per network and reward call, None for all at once.
        monitor: Rewards that are reported and never steered on.
        select: "best", "sample" or "all".
        seed: Seed of every stream, None for a fresh one.
        bar: Wraps the transitions, for progress bars.

    Returns:
        The record; `latents` are one-hot sequences (P, K, L, K').

    Raises:
        ValueError: If an argument is out of range, or terms and step don't fit.

    Example:
        >>> def net(z, alpha, sigma, mask, labels):
        ...     from fkdiff.processes.simplex import log_likelihood
        ...     return log_likelihood(z, alpha, sigma)
        >>> result = sample_sequences(net, GumbelPath(4), lengths=[3, 5], particles=2, seed=0)
        >>> result.latents.shape, result.latents.sum(-1)[0, 0].tolist()
        (torch.Size([2, 2, 5, 4]), [1.0, 1.0, 1.0, 0.0, 0.0])
    """
    guidance = _checked(path, terms, lengths, steps, eta, stochastic)
    noisy = stochastic is not False and path.stochastic
    prompts = [_told(length) for length in lengths]
    run = Run.opened(prompts, particles, terms, resample, monitor, select, seed)
    if not noisy and run.resamples:
        raise ValueError(
            "the flow must be stochastic where resampling can fire: copies would stay identical; "
            "leave stochastic out with schedule 'consistent', or set resample=None"
        )
    rows = torch.tensor(list(lengths)).repeat_interleave(particles)
    loop = _Loop(
        net=net,
        path=path,
        guidance=guidance,
        mask=torch.arange(max(lengths)) < rows[:, None],
        labels=None if labels is None else labels.repeat_interleave(particles),
        alphabet=alphabet,
        eta=eta if noisy else 0.0,
        micro_batch=micro_batch,
        run=run,
        cost=run.cost,
    )
    with run.cost.time("total"), torch.no_grad():
        assert isinstance(run.seed, int)  # it was opened with one for all
        loop(steps, run.seed, bar)
    settings = {
        "loop": "sample_sequences",
        "path": repr(path),
        "steps": steps,
        "eta": loop.eta,
        "particles": particles,
        "terms": [repr(term) for term in terms],
        "resample": repr(resample),
        "monitor": [reward.name for reward in run.monitor],
        "select": run.select,
    }
    result = run.result(stated_law(terms), settings)
    assert result is not None
    return result


def stated_law(terms: Sequence[Term]) -> str:
    """What law the weighted cloud stands for, in words.

    >>> stated_law([])
    'law of the chain that is run'
    """
    guides = [term for term in terms if isinstance(term, StraightThrough)]
    rest = [term.target for term in terms if not isinstance(term, StraightThrough)]
    if any(not guide.reweight for guide in guides):
        rest.insert(0, "heuristic: straight-through guidance without its proposal ratio")
    return "; ".join(rest) or "law of the chain that is run"


def sequences_of(result: Result, alphabet: Alphabet) -> list[list[str]]:
    """Text of all particles, P lists of K."""
    flat = _tokens(result.latents.flatten(0, 1))
    texts = [alphabet.decode(row) for row in flat]
    k = result.latents.shape[1]
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def _tokens(points: Tensor) -> Tensor:
    """Likeliest tokens (n, L) of points of the simplex; -1 where all are zero."""
    return torch.where(points.sum(-1) > 0, points.argmax(-1), -1)


def _sequences(p: Tensor, streams: Sequence[torch.Generator], draws: int) -> Tensor:
    """Sequences drawn letter by letter from posteriors (n, L, K), shape (draws, n, L, K)."""
    u = [torch.rand((draws, p.shape[1], 1), generator=g, dtype=torch.float64) for g in streams]
    levels = p.double().cumsum(-1)
    tokens = (torch.stack(u, 1).to(p.device) * levels[..., -1:] >= levels).sum(-1)
    return one_hot(torch.where(p.sum(-1) > 0, tokens, -1), p.shape[-1])


def _told(length: int) -> str:
    return f"length {length}"


@dataclass
class _Loop:
    """Owns the state; decodes for the rewards."""

    net: Network
    path: GumbelPath
    guidance: StraightThrough | None
    mask: Tensor
    labels: Tensor | None
    alphabet: Alphabet | None
    eta: float
    micro_batch: int | None
    run: Run
    cost: Cost
    _parents: Tensor = field(init=False, repr=False)

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Points of the simplex as a reward reads them."""
        if inputs in ("simplex", "latents"):
            return latents
        if inputs == "tokens":
            return _tokens(latents)
        if inputs == "text" and self.alphabet is not None:
            return [self.alphabet.decode(row) for row in _tokens(latents)]
        raise ValueError(
            f"rewards must read simplex, tokens or text (with an alphabet), got {inputs!r}; "
            f"wrap the function: as_reward(fn, inputs='text')"
        )

    def __call__(
        self, steps: int, seed: int, bar: Callable[[Iterable[Any]], Iterable[Any]]
    ) -> None:
        """Run all transitions."""
        prompts, particles = len(self.run.prompts), self.run.particles
        shape = (self.mask.shape[1], self.path.categories)
        noise = RowNoise(slot_generators(seed, prompts, particles), shape)
        draws = self._guidance_draws(seed, prompts, particles)
        start = torch.special.ndtr(noise.draw().double())
        z = self._inside(centre(float(self.path.sigma(0.0)) * gumbel(start)).float())
        self._parents = torch.arange(len(z))
        for index, levels in enumerate(bar(list(self.path.transitions(steps)))):
            z = self._transition(index, steps, z, levels, noise, draws)

    def _guidance_draws(self, seed: int, prompts: int, particles: int) -> RowNoise | None:
        """Streams of the guidance's one-hot draws, apart from the noise."""
        if self.guidance is None:
            return None
        slots = [(p, k) for p in range(prompts) for k in range(particles)]
        generators = [stream(seed, p, k, "guidance") for p, k in slots]
        return RowNoise(generators, (self.guidance.draws, self.mask.shape[1]))

    def _transition(
        self,
        index: int,
        total: int,
        z: Tensor,
        levels: Simplex,
        noise: RowNoise,
        draws: RowNoise | None,
    ) -> Tensor:
        logits = self._logits(z, levels)
        p = self._inside(logits.softmax(-1))
        kernel = simplex_step(z, logits.softmax(-1), levels, self.eta)
        plain = Kernel(self._inside(kernel.mean), kernel.std)
        guided = plain
        if self.guidance is not None and draws is not None:
            uniform = torch.special.ndtr(draws.draw())
            if self.guidance.active(index / total):
                guided = pushed(plain, self._drift(z, logits, levels, uniform), levels)
        drawn = guided.mean
        if guided.std:
            drawn = drawn + guided.std * self._inside(centre(noise.draw()))
        ended = index == total - 1
        step = Step(
            index=index,
            total=total,
            x=z,
            x_next=self._vertices(drawn) if ended else drawn,
            path=None,
            prompts=len(self.run.prompts),
            particles=self.run.particles,
            context={"prompts": [t for t in self.run.prompts for _ in range(self.run.particles)]},
            log_w=self.run.log_w,
            may_resample=self.run.may_resample(index, total),
            parents=self._parents,
            source=self,
            estimate=lambda: p,
            kernel=plain if plain.std else None,
            correction=self._ratio(plain, guided, drawn),
            seed=self.run.seed,
            draw=lambda rows, streams, draws: _sequences(p[rows.to(p.device)], streams, draws),
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
        size = self.micro_batch or len(z)
        with self.cost.time("denoise"):
            parts = [
                self.net(
                    z[i : i + size],
                    levels.alpha,
                    levels.sigma,
                    mask=self.mask[i : i + size],
                    labels=None if self.labels is None else self.labels[i : i + size],
                )
                for i in range(0, len(z), size)
            ]
        self.cost.denoiser_evaluations += len(z)
        return torch.cat(parts).float()

    def _drift(self, z: Tensor, logits: Tensor, levels: Simplex, uniform: Tensor) -> Tensor:
        assert self.guidance is not None
        guide: Any = self.guidance.guide
        size = self.micro_batch or len(logits)
        with self.cost.time("guide"):
            parts = [
                self.guidance.drift(
                    z[i : i + size],
                    logits[i : i + size],
                    levels,
                    self.mask[i : i + size],
                    uniform[i : i + size],
                )
                for i in range(0, len(logits), size)
            ]
        calls, name = self.cost.reward_calls, f"{guide.name} (gradient)"
        calls[name] = calls.get(name, 0) + len(logits) * self.guidance.draws
        return torch.cat(parts)

    def _inside(self, values: Tensor) -> Tensor:
        return values * self.mask[..., None]

    def _vertices(self, z: Tensor) -> Tensor:
        tokens = torch.where(self.mask, z.argmax(-1), -1)
        return one_hot(tokens, z.shape[-1])


def _checked(
    path: GumbelPath,
    terms: Sequence[Term],
    lengths: Sequence[int],
    steps: int,
    eta: float,
    stochastic: bool | None,
) -> StraightThrough | None:
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths must be at least 1, one a design, got {list(lengths)[:4]}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < eta < float("inf"):
        raise ValueError(f"eta must be positive, got {eta}; stochastic=False runs without noise")
    for term in terms:
        if not isinstance(term, Tilt | StraightThrough):
            raise ValueError(f"terms must be Tilt or StraightThrough for sequences, got {term!r}")
    guides = [term for term in terms if isinstance(term, StraightThrough)]
    if len(guides) > 1:
        raise ValueError(
            f"terms must hold one StraightThrough, got {len(guides)}; "
            f"add the guides: StraightThrough(0.7 * a + 0.3 * b)"
        )
    if guides and guides[0].reweight and (stochastic is False or not path.stochastic):
        raise ValueError(
            "guidance has a proposal ratio only with the stochastic step of schedule "
            "'consistent'; set reweight=False to guide without a stated target"
        )
    return guides[0] if guides else None

"""`sample`: the same cloud without a pipeline, for scores, mixtures and energies of one's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from fkdiff.loops import check_denoisers, closed, denoiser_of, facts, opened, pool_of, rows_at_once
from fkdiff.processes import (
    Gaussian,
    Grid,
    Kernel,
    output_to_epsilon,
    predict_x0,
    sde_step,
)
from fkdiff.processes.shards import Shards, agreed_seed
from fkdiff.processes.streams import Seed, SlotNoise
from fkdiff.result import Result
from fkdiff.run import Run
from fkdiff.smc import Resample
from fkdiff.terms.clock import progress_of
from fkdiff.terms.consistency import as_terms, check_pool, corrector_of, stated_target
from fkdiff.terms.correctors import pool_estimate, warn_few_steps
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import within_memory
from fkdiff.terms.pool import Source, exponent_sum
from fkdiff.terms.reward import Reward
from fkdiff.terms.step import Expert, Step
from fkdiff.terms.term import Term
from fkdiff.terms.trial import StandIn, made_up

__all__ = ["Denoiser", "energy_score", "sample"]

Denoiser = Callable[[Tensor, float, float], Tensor]


def sample(
    denoisers: Mapping[str, Denoiser] | Denoiser,
    path: Grid,
    *terms: Term,
    shape: Sequence[int],
    prompts: int | Sequence[str] = 1,
    guidance: float = 1.0,
    particles: int = 4,
    resample: Resample | None = Resample(),
    stochastic: bool | None = None,
    micro_batch: int | None = None,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: Seed | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    group: ProcessGroup | None = None,
) -> Result:
    r"""Draw weighted particles from denoisers that are given as functions.

    The target is that of `steer`: rewards read latents, and the pool of experts begins with
    $q_{\mathrm{uncond}}^{1 - g} q_{\mathrm{cond}}^g$ where an unconditional denoiser is given.

    Arguments:
        denoisers: Functions (x, alpha, sigma) -> prediction of the path's type, x of shape
            (n, *shape), by name: "cond" (or the first), "uncond" for guidance, and those that
            terms name, for `RLGuidance("tuned")` also "tuned/cond" and "tuned/uncond". A single
            function is "cond".
        path: Noise levels and prediction type.
        terms: What the samples should be.
        shape: Shape of one sample.
        prompts: P, or a list of P prompts: independent clouds.
        guidance: g, needs "uncond" where it isn't 1.
        particles: K, particles for each prompt, at least 1.
        resample: When and how to resample; None gives importance sampling.
        stochastic: False for the deterministic solver, which needs `resample=None` where weights
            can differ before the end; otherwise the marginal-preserving SDE step runs.
        micro_batch: Rows per denoiser and reward call, None for all at once.
        monitor: Rewards that are reported and never steered on.
        select: "best", "sample" or "all", as in `steer`.
        seed: Seed of every random stream, or one for each prompt; None for a fresh one.
        dtype: Type of the state.
        device: Device of the state.
        group: Processes that share the particles, as in `steer`.

    Raises:
        ValueError: If an argument is out of range, or the terms have no common target.
        PeerError: If another process of the group fails or is lost.

    Example:
        >>> from fkdiff import Correct, Grid, Product
        >>> def score(mean):
        ...     return lambda x, alpha, sigma: -(x - alpha * mean) / (alpha**2 + sigma**2)
        >>> path = Grid.vp(100, prediction="score")
        >>> terms = Product(score(2.0)), Correct()
        >>> result = sample(score(0.0), path, *terms, shape=(1,), particles=400, seed=0)
        >>> bool((result.mean(result.latents) - 1).abs() < 0.2)
        True
    """
    named = {"cond": denoisers} if callable(denoisers) else dict(denoisers)
    texts = [""] * prompts if isinstance(prompts, int) else list(prompts)
    check_denoisers(named, guidance, micro_batch)
    terms = as_terms(terms)
    check_pool(terms, stochastic)
    seed = agreed_seed(group, seed, repr([texts, particles, len(path), guidance]))
    shards = Shards(len(texts), particles, group, micro_batch)
    provided = {"x0", "scores", "kernel"} | ({"uncond"} if guidance != 1 else set())
    run = opened(
        *(texts, particles, terms, resample, monitor, select, seed, shards),
        provided=provided,
        where="sample()",
    )
    if stochastic is False and run.resamples:
        raise ValueError(
            "stochastic must not be False where resampling can fire: copies would stay identical; "
            "leave it out, or set resample=None"
        )
    loop = _Loop(
        named,
        path,
        terms,
        tuple(shape),
        guidance,
        stochastic is not False,
        micro_batch,
        run,
        run.cost,
    )
    with run.cost.time("total"), torch.no_grad(), shards.watched():
        noise = made_up("latents", *shape, device=device).to(dtype)
        run.try_rewards(lambda inputs: StandIn(loop.decode(noise, inputs)))
        loop(dtype, torch.device(device))
    settings = {
        "loop": "sample",
        "denoisers": list(named),
        "guidance": guidance,
        "steps": len(path),
        "stochastic": stochastic,
        **rows_at_once(micro_batch, loop),
    }
    return closed(run, stated_target(terms), settings)


def energy_score(log_density: Callable[[Tensor, float, float], Tensor]) -> Denoiser:
    r"""Score of an unnormalised log-density by automatic differentiation.

    Arguments:
        log_density: (x, alpha, sigma) -> $\log \tilde q$ of each row, shape (n,), at that noise
            level.

    Example:
        >>> score = energy_score(lambda x, alpha, sigma: -x.square().sum(1) / 2)
        >>> score(torch.tensor([[2.0]]), 1.0, 0.0)
        tensor([[-2.]])
    """

    def score(x: Tensor, alpha: float, sigma: float) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(log_density(x, alpha, sigma).sum(), x)[0]

    return score


@dataclass
class _Loop:
    """Owns the state; hands each transition to the engine as a pipeline's tap does."""

    denoisers: dict[str, Denoiser]
    path: Grid
    terms: Sequence[Term]
    shape: tuple[int, ...]
    guidance: float
    stochastic: bool
    micro_batch: int | None
    run: Run
    cost: Cost
    _at: tuple[Tensor, Gaussian] | None = field(default=None, repr=False)

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Latents are the samples."""
        if inputs != "latents":
            raise ValueError(
                f"rewards must read latents in sample(), got {inputs!r}; "
                f"wrap the function: as_reward(fn, inputs='latents')"
            )
        return latents

    def __post_init__(self) -> None:
        self._corrector = corrector_of(self.terms)

    def __call__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Run all transitions."""
        corrector = self._corrector
        if corrector is not None:
            warn_few_steps(len(self.path))
        shards = self.run.shards
        noise = SlotNoise(self.run.seed, shards.prompts, shards.slots, self.shape, dtype)
        x = self.path.levels[0][1] * noise.draw().to(device)
        x = x if corrector is None else x * exponent_sum(self.terms) ** -0.5
        rows, before = None, None
        for index, path in enumerate(self.path.transitions()):
            self._at = (x, path)
            pool = self._pool(index)
            kernel, d = self._move(x, path, pool, before)
            before = path
            step = Step(
                **facts(self.run, index, len(self.path)),
                x=x,
                x_next=_moved(kernel, noise, device),
                path=path,
                parents=shards.everyone if rows is None else rows,
                source=self,
                estimate=lambda x=x, path=path, pool=pool: self._estimate(x, path, pool),
                pool=lambda pool=pool: tuple(pool),
                kernel=kernel,
                correction=None if d is None else shards.gather(d).reshape(self.run.log_w.shape),
                shards=shards,
            )
            rows = self.run.transition(step)
            # What the last one selects is in the record already.
            x = step.x_next if rows is None or step.final else shards.take([step.x_next], rows)[0]

    def _pool(self, index: int) -> list[Expert]:
        progress = progress_of(index, len(self.path))
        return pool_of(self.denoisers, self.terms, self.guidance, self._evaluate, progress)

    def _evaluate(self, source: Source, branch: str) -> Tensor:
        assert self._at is not None
        x, path = self._at
        denoiser = denoiser_of(self.denoisers, source, branch)

        def few(size: int) -> Tensor:
            parts = self.run.shards.batches(size)
            if len(parts) == 1:
                return denoiser(x, path.alpha, path.sigma)
            outputs = [denoiser(x[part.to(x.device)], path.alpha, path.sigma) for part in parts]
            return torch.cat(outputs)[torch.cat(parts).argsort().to(x.device)]

        with self.cost.time("denoise"):
            outputs = within_memory(self, len(x), few)
        self.cost.denoiser_evaluations += len(x)
        return outputs

    def _noises(self, x: Tensor, path: Gaussian, pool: list[Expert]) -> list[tuple[float, Tensor]]:
        return [
            (
                e.b,
                output_to_epsilon(x, e.output, path.alpha, path.sigma, self.path.prediction),
            )
            for e in pool
        ]

    def _move(
        self, x: Tensor, path: Gaussian, pool: list[Expert], before: Gaussian | None
    ) -> tuple[Kernel, Tensor | None]:
        corrector = self._corrector
        if corrector is not None:
            move = corrector.move(x, path, self._noises(x, path, pool), before)
            return move.kernel, move.d
        x0 = self._plain_estimate(x, path, pool)
        return sde_step(x, x0, path, eta=1.0 if self.stochastic else 0.0), None

    def _plain_estimate(self, x: Tensor, path: Gaussian, pool: list[Expert]) -> Tensor:
        """Estimate that makes the step move by the pool's score."""
        total = sum(e.b for e in pool)
        noises = self._noises(x, path, pool)
        if path.alpha > 0:
            return torch.sub(x, _weighted(noises), alpha=path.sigma).div_(path.alpha)
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"exponents must sum to 1 where a path starts in pure noise, got {total:g}; "
                f"add Correct(), or leave out the first level"
            )
        return self._without_signal(x, path, pool)

    def _without_signal(self, x: Tensor, path: Gaussian, pool: list[Expert]) -> Tensor:
        prediction = self.path.prediction
        return _weighted(
            [(e.b, predict_x0(x, e.output, 0.0, path.sigma, prediction)) for e in pool]
        )

    def _estimate(self, x: Tensor, path: Gaussian, pool: list[Expert]) -> Tensor:
        if path.alpha == 0:
            return self._without_signal(x, path, pool) / sum(e.b for e in pool)
        return pool_estimate(x, path, self._noises(x, path, pool))


def _moved(kernel: Kernel, noise: SlotNoise, device: torch.device) -> Tensor:
    """A draw from the kernel; its mean where it is deterministic, and nothing is drawn."""
    if kernel.std == 0:
        return kernel.mean
    return torch.add(kernel.mean, noise.draw().to(device), alpha=kernel.std)


def _weighted(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Sum of tensors times their exponents."""
    (b, first), *rest = parts
    total = first if b == 1 else b * first
    for b, part in rest:
        total = total + b * part
    return total

"""Checks of what one brings: a pipeline, a reward or a term of one's own.

They are the checks that this project's own tests run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkdiff.processes.grid import Grid
from fkdiff.processes.streams import slot_generators
from fkdiff.result import Result
from fkdiff.sampling import sample
from fkdiff.smc import Resample
from fkdiff.steering import steer
from fkdiff.taps import PipelineTap
from fkdiff.taps.arguments import expand
from fkdiff.taps.results import fields
from fkdiff.terms.cost import Cost
from fkdiff.terms.reward import Reward, as_reward, evaluate
from fkdiff.terms.step import Step
from fkdiff.terms.term import Term

__all__ = ["Checked", "check_pipeline", "check_reward", "check_term"]

_Z = 4.5
"""Standard errors beyond which two means count as different."""


@dataclass(frozen=True)
class Checked:
    """What was checked, with the largest relative difference seen in each check."""

    name: str
    differences: Mapping[str, float]

    def __repr__(self) -> str:
        seen = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        return f"{self.name}: {seen}"


def check_pipeline(
    pipe: Any,
    call: Mapping[str, Any],
    *,
    rows: int = 3,
    seed: int = 0,
    micro_batches: Sequence[int | None] = (None, 1, 2),
    tolerance: float = 1e-5,
) -> Checked:
    """Compare a pipeline's own call with tapped ones; returns the differences found.

    Arguments:
        pipe: The pipeline.
        call: Keyword arguments that draw one sample.
        rows: Particles, at least 2.
        seed: Seed of the row's generators.
        micro_batches: Particles per network call that are tried.
        tolerance: Largest difference allowed, relative to the largest number of the output.

    Raises:
        AssertionError: With what failed: a run without terms, the rows after resampling, or what
            rewards are shown of the last state.

    Example:
        >>> from diffusers import DiffusionPipeline
        >>> from fkdiff import zoo
        >>> pipe = DiffusionPipeline.from_pretrained(zoo.path("emoji"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> call = {"prompt": "a cat on a red background", "num_inference_steps": 3}
        >>> found = check_pipeline(pipe, call, rows=2, micro_batches=(1,))
        >>> sorted(found.differences)
        ['decode, micro_batch=1', 'null run', 'rows follow, micro_batch=1']
    """
    given = {"output_type": "pt", **call}
    expanded = expand(pipe, (), given, rows)
    name = type(pipe).__name__
    stock = _numbers(pipe(**expanded.arguments, generator=slot_generators(seed, 1, rows)), rows)
    null = steer(pipe, particles=rows, seed=seed, select="all", stochastic=False)(**given)
    found = {"null run": _difference(_numbers(null, rows), stock)}
    if found["null run"] > tolerance:
        raise AssertionError(
            f"{name}: a run without terms differs from the stock call by {found['null run']:.1e}"
        )
    for size in micro_batches:
        generators = slot_generators(seed, 1, rows)
        engine = _Lineage(rows, generators)
        tap = PipelineTap(
            pipe=pipe,
            expanded=expand(pipe, (), given, rows),
            particles=rows,
            generators=generators,
            engine=engine,  # pyright: ignore[reportArgumentType]
            stochastic=None,
            resamples=False,
            micro_batch=size,
            cost=Cost(),
        )
        engine.tap = tap
        output = _numbers(tap(), rows)
        what = f"rows follow, micro_batch={size}"
        expected = {k: v[engine.lineage] for k, v in stock.items()}
        found[what] = _difference(output, expected, stock)
        if found[what] > tolerance:
            raise AssertionError(
                f"{name}: after resampling with micro_batch={size} rows differ from their "
                f"ancestors' by {found[what]:.1e}; something per row didn't follow"
            )
        found[f"decode, micro_batch={size}"] = _undecoded(name, engine.decoded, output, tolerance)
    return Checked(name, found)


def _undecoded(
    name: str, decoded: Tensor, output: Mapping[str, Tensor], tolerance: float
) -> float:
    """How far what rewards were shown at the end is from what came out."""
    shown = decoded.double().flatten(1)
    same = [v for v in output.values() if v.numel() == shown.numel()]
    orders = [w for v in same for w in ([v, v.movedim(-1, 1)] if v.ndim > 2 else [v])]
    far = [float((w.flatten(1) - shown).abs().max() / w.abs().max()) for w in orders]
    if not far or min(far) > tolerance:
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in output.items())
        how = f"by {min(far):.1e}" if far else "in shape"
        raise AssertionError(
            f"{name}: samples that rewards are shown, {tuple(decoded.shape)}, differ {how} from "
            f"the pipeline's own output: {shapes}"
        )
    return min(far)


class _Lineage:
    """Rotates the rows at each transition and copies the last one into all before the end."""

    tap: PipelineTap
    decoded: Tensor

    def __init__(self, rows: int, generators: Sequence[torch.Generator]) -> None:
        self.seed, self.log_w = 0, torch.zeros(1, rows, dtype=torch.float64)
        self.lineage, self.generators = torch.arange(rows), generators

    def may_resample(self, index: int, total: int) -> bool:
        return True

    def status(self) -> dict[str, str]:
        return {}

    def transition(self, step: Step) -> Tensor | None:
        if step.final:
            self.decoded = torch.as_tensor(self.tap.decode(step.x0, self.tap.inputs))
            return None
        rows = torch.arange(len(self.lineage)).roll(-1)
        if step.index == step.total - 2:
            rows = torch.full_like(rows, len(rows) - 1)
        self.lineage = self.lineage[rows]
        states = [self.generators[row].get_state() for row in rows.tolist()]
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return rows


def _numbers(output: Any, rows: int) -> dict[str, Tensor]:
    """Fields of an output with a row for each particle."""
    made = {
        k: torch.as_tensor(np.asarray(v)).double()
        for k, v in fields(output).items()
        if v is not None
    }
    return {k: v for k, v in made.items() if len(v) == rows}


def _difference(
    found: Mapping[str, Tensor],
    exact: Mapping[str, Tensor],
    like: Mapping[str, Tensor] | None = None,
) -> float:
    like = like or exact
    return max(float((found[k] - exact[k]).abs().max() / like[k].abs().max()) for k in exact)


def check_reward(
    reward: Reward | Callable[..., Any], samples: Any, *, tolerance: float = 1e-4, **context: Any
) -> Checked:
    """Score samples together, apart and in another order; returns the differences found.

    Arguments:
        reward: The reward.
        samples: At least 2 samples of the kind that it reads, as `Reward.inputs` names it.
        tolerance: Largest difference allowed, relative to the largest value.
        **context: What a run would hand over beside them, such as `prompts`, a list of n texts.

    Raises:
        AssertionError: If values depend on the other samples, or a reward that says it is
            differentiable has no finite gradient, or one that crosses rows.
        RewardError: If it fails, or returns something else than n finite numbers.

    Example:
        >>> check_reward(lambda pixels: pixels.mean((1, 2, 3)), torch.rand(4, 3, 8, 8))
        <lambda>: apart 0.0e+00, in another order 0.0e+00
    """
    scored, n = as_reward(reward), len(samples)
    if n < 2:
        raise ValueError(f"samples must number at least 2, got {n}")

    def values(rows: Sequence[int]) -> Tensor:
        some = {name: _chosen(v, rows) for name, v in context.items()}
        return evaluate(scored, _chosen(samples, rows), some)

    together = values(range(n))
    size = float(together.abs().max().clamp(min=1e-12))
    backwards = values(range(n)[::-1]).flip(0)
    found = {
        "apart": float((torch.cat([values([i]) for i in range(n)]) - together).abs().max()) / size,
        "in another order": float((backwards - together).abs().max()) / size,
    }
    for what, off in found.items():
        if off > tolerance:
            raise AssertionError(
                f"{scored.name}: values differ by {off:.1e} when samples are scored {what}; a "
                f"reward must score each sample by itself, and the same at every call"
            )
    if scored.differentiable:
        found["gradient across rows"] = _crossing(scored, samples, context)
    return Checked(scored.name, found)


def _chosen(samples: Any, rows: Sequence[int]) -> Any:
    return samples[list(rows)] if isinstance(samples, Tensor) else [samples[i] for i in rows]


def _crossing(reward: Reward, samples: Any, context: Mapping[str, Any]) -> float:
    """The largest gradient of the first value in other rows, over that in its own."""
    x = samples.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = reward(x, **context)[0]
    if not value.requires_grad:
        raise AssertionError(f"{reward.name}: it has no gradient, but says differentiable=True")
    (slope,) = torch.autograd.grad(value, x)
    own, others = float(slope[0].abs().max()), float(slope[1:].abs().max())
    if not slope.isfinite().all() or own == 0 or others > 1e-6 * own:
        raise AssertionError(
            f"{reward.name}: the gradient of the first value is {own:.1e} in its own row and "
            f"{others:.1e} in others; it must be finite, not 0 there, and 0 in others"
        )
    return others / own


TermRun = Callable[[Term, Resample | None, int, int], Result]
"""(term, when to resample, clouds, seed) -> result with `log_z` of each cloud."""


def check_term(
    term: Term, run: TermRun | None = None, *, clouds: int = 2000, seed: int = 0
) -> Checked:
    r"""Estimate Z with and without resampling; returns how many standard errors they are apart.

    $E[\hat Z]$ doesn't depend on when a cloud is resampled, if the term keeps what it remembers of
    particles in its state, which moves with them, and twists each particle by itself.

    Arguments:
        term: The term.
        run: Draws clouds with it; by default 8 particles each of a standard normal in 2 dimensions
            by 12 steps, whose latents rewards may read.
        clouds: Clouds of each kind.
        seed: Of the first; the second has the next.

    Raises:
        AssertionError: If the estimates differ, the log-twist has another shape or type, or
            nothing was ever resampled, so that nothing was checked.

    Example:
        >>> from fkdiff import Tilt, as_reward
        >>> far = as_reward(lambda x: x.abs().sum(1), name="far", inputs="latents")
        >>> check_term(Tilt(far), clouds=300).differences["standard errors"] < 4.5
        True
    """
    run, name = run or _standard_normal, type(term).__name__
    often = Resample(ess=1.0, window=(0.0, 1.0))
    results = [run(term, None, clouds, seed), run(term, often, clouds, seed + 1)]
    if all(rows is None for rows in results[1].rows):
        raise AssertionError(
            f"{name}: its weights never differ before the end, so that nothing was resampled"
        )
    logs = torch.stack([result.log_z for result in results])
    if not logs.isfinite().all():
        raise AssertionError(f"{name}: log Z must be finite, got {logs[~logs.isfinite()][0]}")
    z = (logs - logs.max()).exp()
    error = (z.var(1) / clouds).sum().sqrt()
    apart = float((z[0].mean() - z[1].mean()).abs() / error)
    if apart > _Z:
        means = ", ".join(f"{float(row.mean() * logs.max().exp()):.4g}" for row in z)
        raise AssertionError(
            f"{name}: Z without and with resampling is {means}, {apart:.1f} standard errors "
            f"apart; what it remembers of particles must be in its state, which moves with them"
        )
    return Checked(name, {"standard errors": apart})


def _standard_normal(term: Term, resample: Resample | None, clouds: int, seed: int) -> Result:
    def noise(x: Tensor, alpha: float, sigma: float) -> Tensor:
        return sigma * x / (alpha**2 + sigma**2)

    return sample(
        noise,
        Grid.vp(12),
        term,
        shape=(2,),
        particles=8,
        prompts=clouds,
        resample=resample,
        seed=seed,
    )

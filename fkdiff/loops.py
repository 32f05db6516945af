"""What loops of our own share: opening a run, telling its steps, its record; named denoisers."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from fkdiff.processes.shards import Shards
from fkdiff.processes.streams import Seed
from fkdiff.result import Result
from fkdiff.run import SELECTS, Run
from fkdiff.smc import Resample
from fkdiff.terms.consistency import as_terms, check_names, check_needs, rewards_of, tilts
from fkdiff.terms.cost import Cost
from fkdiff.terms.memory import Batched
from fkdiff.terms.pool import Source, compose, label
from fkdiff.terms.reward import Reward, as_reward
from fkdiff.terms.step import Expert
from fkdiff.terms.term import Term

__all__ = [
    "base_of",
    "check_denoisers",
    "closed",
    "denoiser_of",
    "facts",
    "opened",
    "pool_of",
    "rows_at_once",
]

Denoiser = TypeVar("Denoiser", bound=Callable[..., Tensor])


def opened(
    prompts: Sequence[str],
    particles: int,
    terms: Sequence[Term],
    resample: Resample | None,
    monitor: Sequence[Reward | Callable[..., object]],
    select: str | None,
    seed: Seed | None,
    shards: Shards | None = None,
    *,
    provided: Collection[str],
    where: str,
) -> Run:
    """A run with its arguments checked and defaults filled in.

    Arguments:
        prompts: The P prompts.
        particles: K, at least 1.
        terms: The terms.
        resample: When and how to resample, None never.
        monitor: Rewards, or callables, that are only reported.
        select: "best", "sample" or "all"; None is "best" with Tilts, else "sample".
        seed: Seed of every stream, or one for each prompt; None for a fresh one.
        shards: Which particles are here; None where all are.
        provided: What terms may need, of `NEEDS`.
        where: What runs, in words.

    Raises:
        TypeError: If a term isn't one.
        ValueError: If `particles` or `select` is out of range, a term needs what isn't provided,
            or two rewards have one name.
    """
    terms, monitors = as_terms(terms), tuple(as_reward(reward) for reward in monitor)
    check_needs(terms, provided, where)
    check_names([*rewards_of(terms), *monitors])
    if not isinstance(seed, int | None) and len(seed) != len(prompts):
        raise ValueError(
            f"seed must be one number, or one for each prompt ({len(prompts)}), got {len(seed)}"
        )
    if particles < 1:
        raise ValueError(f"particles must be at least 1, got {particles}")
    if select is not None and select not in SELECTS:
        raise ValueError(f"select must be one of {', '.join(SELECTS)}, got {select!r}")
    return Run(
        prompts=list(prompts),
        particles=particles,
        terms=terms,
        resample=resample,
        monitor=monitors,
        select=select or ("best" if tilts(terms) else "sample"),
        wanted=particles if select == "all" else 1,
        seed=int.from_bytes(os.urandom(4), "little") if seed is None else seed,
        cost=Cost(),
        shards=shards,  # pyright: ignore[reportArgumentType]
    )


def facts(run: Run, index: int, total: int) -> dict[str, Any]:
    """What the `Step` of a transition tells of its run.

    Arguments:
        run: The run.
        index: Transition, counted from 0.
        total: Number of transitions.
    """
    return {
        "index": index,
        "total": total,
        "prompts": len(run.prompts),
        "particles": run.particles,
        "context": {"prompts": run.texts},
        "log_w": run.log_w,
        "may_resample": run.may_resample(index, total),
        "seed": run.seed,
    }


def closed(run: Run, target: str, settings: Mapping[str, Any]) -> Result:
    """The record of a run whose transitions are over.

    Arguments:
        run: The run.
        target: What law the weighted cloud stands for.
        settings: Those of the loop; the run adds its own.
    """
    own = {
        "particles": run.particles,
        "terms": [repr(term) for term in run.terms],
        "resample": repr(run.resample),
        "monitor": [reward.name for reward in run.monitor],
        "monitor_code": [repr(reward) for reward in run.monitor],
        "select": run.select,
        **({} if isinstance(run.seed, int) else {"seeds": [*run.seed]}),
    }
    result = run.result(target, {**settings, **own})
    assert result is not None
    return result


def rows_at_once(asked: int | None, *holders: Batched) -> dict[str, Any]:
    """Settings of a record: rows a call, and whether memory left fewer than were asked for.

    Arguments:
        asked: The micro-batch that was asked for, None for all rows.
        holders: Whoever went through rows in the run.

    Example:
        >>> from fkdiff.terms.memory import Limit
        >>> rows_at_once(8, Limit(8), Limit(4))
        {'micro_batch': 4, 'out_of_memory': 'went on with micro_batch=4'}
        >>> rows_at_once(None, Limit())
        {'micro_batch': None}
    """
    sizes = [holder.micro_batch for holder in holders]
    least = min((size for size in sizes if size is not None), default=None)
    if least == asked:
        return {"micro_batch": asked}
    return {"micro_batch": least, "out_of_memory": f"went on with micro_batch={least}"}


def check_denoisers(names: Collection[str], guidance: float, micro_batch: int | None) -> None:
    """Refuse too few denoisers, or a micro-batch that isn't positive.

    Arguments:
        names: Of the denoisers.
        guidance: g, needs "uncond" where it isn't 1.
        micro_batch: Rows per call, None for all at once.

    Raises:
        ValueError: If so.
    """
    if not names:
        raise ValueError("denoisers must hold at least one function, got none")
    if guidance != 1 and "uncond" not in names:
        raise ValueError(
            f"denoisers must hold 'uncond' for guidance {guidance:g}, got {', '.join(names)}; "
            f"add it, or set guidance=1"
        )
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch must be at least 1, got {micro_batch}")


def denoiser_of(denoisers: Mapping[str, Denoiser], source: Source, branch: str) -> Denoiser:
    """The denoiser that a term asks for: a function of its own, "source/branch" or "source".

    Arguments:
        denoisers: Those given, by name.
        source: What the term names, or a function.
        branch: "cond" or "uncond".

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> denoiser_of({"tuned": abs}, "tuned", "cond")
        <built-in function abs>
    """
    if callable(source):
        return source  # pyright: ignore[reportReturnType]
    for name in (f"{source}/{branch}", source):
        if name in denoisers:
            return denoisers[name]
    raise ValueError(
        f"denoisers must hold {source!r} or '{label(source)}/{branch}', got {', '.join(denoisers)}"
    )


def base_of(names: Collection[str]) -> str:
    """The denoiser that terms edit: "cond", or the first where there is none.

    >>> base_of(["plain", "tuned"])
    'plain'
    """
    return "cond" if "cond" in names else next(iter(names))


def pool_of(
    names: Collection[str],
    terms: Sequence[Term],
    guidance: float,
    evaluate: Callable[[Source, str], Tensor],
    progress: float,
) -> list[Expert]:
    r"""The experts of a transition, from $q_{\mathrm{uncond}}^{1 - g} q_{\mathrm{cond}}^g$.

    Arguments:
        names: Of the denoisers.
        terms: Those of the run.
        guidance: g.
        evaluate: (source, branch) -> output of all rows.
        progress: Of the transition, in (0, 1].
    """
    pool = [Expert("cond", guidance, evaluate(base_of(names), "cond"))]
    if guidance != 1:
        pool.insert(0, Expert("uncond", 1 - guidance, evaluate("uncond", "uncond")))
    return compose(terms, pool, evaluate, progress)

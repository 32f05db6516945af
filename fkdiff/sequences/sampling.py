"""`sample_sequences`: weighted particles of sequences from a Gumbel-softmax flow."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fkdiff.loops import closed, opened, rows_at_once
from fkdiff.processes.simplex import GumbelPath
from fkdiff.processes.streams import Seed
from fkdiff.result import Result
from fkdiff.sequences.alphabet import Alphabet, tokens_of
from fkdiff.sequences.guidance import StraightThrough
from fkdiff.sequences.loop import SequenceLoop
from fkdiff.sequences.losses import Network
from fkdiff.smc import Resample
from fkdiff.terms.reward import Reward
from fkdiff.terms.term import Term, law_of

__all__ = ["sample_sequences", "sequences_of"]


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
    resample: Resample | None = Resample(),
    stochastic: bool | None = None,
    micro_batch: int | None = 256,
    monitor: Sequence[Reward | Callable[..., object]] = (),
    select: str | None = None,
    seed: Seed | None = None,
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
        seed: Seed of every stream, or one for each design; None for a fresh one.
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
    guidance = _checked(path, terms, lengths, steps, eta, stochastic, micro_batch)
    noisy = stochastic is not False and path.stochastic
    prompts = [f"length {length}" for length in lengths]
    run = opened(
        *(prompts, particles, terms, resample, monitor, select, seed),
        provided={"x0", "decode", "grad"} | ({"kernel"} if noisy else set()),
        where="sample_sequences",
    )
    if not noisy and run.resamples:
        raise ValueError(
            "the flow must be stochastic where resampling can fire: copies would stay identical; "
            "leave stochastic=False and eta=0 out (schedule 'consistent'), or set resample=None"
        )
    rows = torch.tensor(list(lengths)).repeat_interleave(particles)
    loop = SequenceLoop(
        net=net,
        path=path,
        guidance=guidance,
        mask=torch.arange(max(lengths)) < rows[:, None],
        labels=None if labels is None else labels.repeat_interleave(particles),
        alphabet=alphabet,
        eta=eta if noisy else 0.0,
        micro_batch=micro_batch,
        run=run,
    )
    with run.cost.time("total"), torch.no_grad():
        run.try_rewards(loop.stand_in)
        loop(steps, run.seed, bar)
    settings = {
        "loop": "sample_sequences",
        "path": repr(path),
        "steps": steps,
        "lengths": [int(length) for length in lengths],
        "labels": labels is not None,
        "alphabet": alphabet is not None,
        "eta": loop.eta,
        **rows_at_once(micro_batch, loop),
    }
    return closed(run, stated_law(terms), settings)


def stated_law(terms: Sequence[Term]) -> str:
    """What law the weighted cloud stands for, in words.

    >>> stated_law([])
    'law of the chain that is run'
    """
    guides = [term for term in terms if isinstance(term, StraightThrough)]
    rest = [law_of(term) for term in terms if not isinstance(term, StraightThrough)]
    if any(not guide.reweight for guide in guides):
        rest.insert(0, "heuristic: straight-through guidance without its proposal ratio")
    return "; ".join(rest) or "law of the chain that is run"


def sequences_of(result: Result, alphabet: Alphabet) -> list[list[str]]:
    """Text of all particles, P lists of K."""
    flat = tokens_of(result.latents.flatten(0, 1))
    texts = [alphabet.decode(row) for row in flat]
    k = result.latents.shape[1]
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def _checked(
    path: GumbelPath,
    terms: Sequence[Term],
    lengths: Sequence[int],
    steps: int,
    eta: float,
    stochastic: bool | None,
    micro_batch: int | None,
) -> StraightThrough | None:
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths must be at least 1, one a design, got {list(lengths)[:4]}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < eta < float("inf"):
        raise ValueError(f"eta must be positive, got {eta}; stochastic=False runs without noise")
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch must be at least 1 or None, got {micro_batch}")
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

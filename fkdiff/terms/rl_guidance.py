r"""RL guidance: lean on an RL-tuned expert by more, or less, than it was tuned to.

$$\hat v = v_{\mathrm{ref}} + w\,(v_\theta - v_{\mathrm{ref}})$$

is the score of the geometric mixture $q_{\mathrm{ref}}^{1 - w} q_\theta^w$ at each noise level.
Weights sum to 1, so that every prediction type may be mixed as it is.

References:
    | Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning Guidance
    | arXiv 2508.21016
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fkdiff.terms.clock import check_interval, within
from fkdiff.terms.pool import Evaluate, PoolTerm, Source, label, labels, source_code
from fkdiff.terms.step import Expert

__all__ = ["RLGuidance"]


@dataclass(frozen=True)
class RLGuidance(PoolTerm):
    r"""Mix base and tuned experts: $q_{\mathrm{ref}}^{1 - w} q_\theta^w$.

    Where the tuned model is the optimum of the reward with KL strength $\beta$,
    $q_\theta \propto q_{\mathrm{ref}} \exp(R / \beta)$, the mixture has strength
    $\beta_{\mathrm{eff}} = \beta / w$ (at the data; on the way only with `Correct()`). w = 0 is
    the base and 1 the tuned model, each bit for bit at one evaluation; above 1 extrapolates.

    Arguments:
        tuned: The tuned expert: name of a LoRA adapter that the pipeline has loaded, a network
            called as the pipeline's own, a pipeline that holds one, or the name of a denoiser
            that `sample` was given. A mapping of several to their weights, which w multiplies.
        w: Weight, finite; or a function of the progress in (0, 1], as `Tilt.schedule` is.
        interval: Shares of the run between which w holds, first < progress <= last; outside it
            the base model runs alone.
        mode: "output" mixes predictions; "weights" scales the adapter's update by w, one
            evaluation of a different model.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning
        | Guidance, arXiv 2508.21016

    Example:
        >>> RLGuidance("emoji-rl", 1.6).weights(1.0)
        {'emoji-rl': 1.6}
        >>> RLGuidance({"taste": 0.5, "text": 1.0}, 2).target
        'base^-2 taste^1 text^2'
    """

    tuned: Source | Mapping[Source, float]
    w: float | Callable[[float], float] = 1.0
    interval: tuple[float, float] | None = None
    mode: Literal["output", "weights"] = "output"
    stage: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("tuned must name at least one expert, got an empty mapping")
        for name, share in self.sources.items():
            if not math.isfinite(share):
                raise ValueError(f"weight of {label(name)} must be finite, got {share}")
        if not callable(self.w) and not math.isfinite(self.w):
            raise ValueError(f"w must be finite, got {self.w}; 1 is the tuned model")
        if self.interval is not None:
            check_interval("interval", self.interval)
        if self.mode not in ("output", "weights"):
            raise ValueError(f"mode must be 'output' or 'weights', got {self.mode!r}")
        if self.mode == "weights" and not all(isinstance(s, str) for s in self.sources):
            raise ValueError(
                f"mode 'weights' scales LoRA adapters, got {self!r}; name loaded adapters, "
                f"or use mode='output'"
            )

    def __repr__(self) -> str:
        names = {name: share for name, share in self.sources.items()}
        shown = ", ".join(f"{source_code(name)}: {share!r}" for name, share in names.items())
        tuned = f"{{{shown}}}" if isinstance(self.tuned, Mapping) else source_code(self.tuned)
        w = label(self.w) if callable(self.w) else repr(self.w)
        rest = "" if self.interval is None else f", interval={self.interval!r}"
        rest += "" if self.mode == "output" else f", mode={self.mode!r}"
        return f"RLGuidance(tuned={tuned}, w={w}{rest})"

    @property
    def sources(self) -> dict[Source, float]:
        """Each tuned expert with its share of w."""
        if isinstance(self.tuned, Mapping):
            return {source: float(share) for source, share in self.tuned.items()}
        return {self.tuned: 1.0}

    @property
    def scheduled(self) -> bool:
        """Whether w changes in time."""
        return callable(self.w) or self.interval not in (None, (0, 1))

    @property
    def target(self) -> str:
        """Powers of the base and of each expert."""
        if self.mode == "weights":
            return "law of the model with its adapter scaled"
        if self.scheduled:
            return "base^(1 - w(t)) tuned^w(t)"
        shares = self.weights(1.0)
        powers = [1 - sum(shares.values()), *shares.values()]
        names = ["base", *labels(shares, taken=["base"])]
        return " ".join(f"{n}^{power:g}" for n, power in zip(names, powers, strict=True))

    def weights(self, progress: float) -> dict[Source, float]:
        """Weight of each tuned expert in the transition of this progress.

        Raises:
            ValueError: If the schedule gives a weight that isn't finite.
        """
        w = self.w(progress) if callable(self.w) else self.w
        if not math.isfinite(w):
            raise ValueError(f"w must be finite, got {w} at progress {progress:g}")
        inside = within(self.interval, progress)
        return {source: w * share if inside else 0.0 for source, share in self.sources.items()}

    def experts(
        self, pool: list[Expert], evaluate: Evaluate, progress: float = 1.0
    ) -> list[Expert]:
        """Split each expert into the base model's and the tuned ones'."""
        if self.mode == "weights":
            return pool
        weights, names = self.weights(progress), labels(self.sources)
        base = 1 - sum(weights.values())
        split = []
        for expert in pool:
            split.append(Expert(expert.name, base * expert.b, expert.output))
            for name, (source, w) in zip(names, weights.items(), strict=True):
                if w != 0:
                    output = evaluate(source, expert.name)
                    split.append(Expert(f"{name}/{expert.name}", w * expert.b, output))
        return split

    def exponent_sum(self, total: float) -> float:
        """The same."""
        return total

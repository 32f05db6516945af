"""What taps of pipelines that draw tokens share.

A scheduler's step draws all rows with one generator, so a copy of the scheduler serves each row
with the row's own.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fkdiff.processes.streams import stream
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.batching import batch_of, chunked
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.denoiser import calling
from fkdiff.taps.engine import Engine
from fkdiff.taps.exclusive import others_refused
from fkdiff.taps.shadowing import variant
from fkdiff.terms.cost import Cost
from fkdiff.terms.draws import Draw
from fkdiff.terms.memory import within_memory
from fkdiff.terms.token_step import token_step
from fkdiff.terms.trial import StandIn

__all__ = ["TokenTap"]


@dataclass
class TokenTap:
    """Runs a token pipeline's own call with N = P * K rows and hands transitions to an engine.

    Arguments:
        pipe: The pipeline; restored on exit, on error and on interrupt.
        expanded: Arguments of the call, defaults included.
        particles: K.
        generators: One CPU generator a row.
        engine: Weighs and resamples.
        resamples: Whether resampling can fire at all.
        micro_batch: Rows per network call and reward, None for all.
        cost: Counts what is spent.
    """

    pipe: Any
    expanded: Expanded
    particles: int
    generators: Sequence[torch.Generator]
    engine: Engine
    resamples: bool
    micro_batch: int | None
    cost: Cost
    replaced: str | None = None
    divisible: ClassVar[bool] = True
    """Whether a network call can be made in parts."""
    _rows: list[Any] = field(default_factory=list, repr=False)
    _parents: Tensor | None = field(default=None, repr=False)
    _logits: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.resamples and self._greedy:
            raise TapError(
                "temperature must be positive where resampling can fire: copies would draw the "
                "same tokens; pass temperature=0.7, or set resample=None"
            )

    @property
    def _greedy(self) -> bool:
        """Whether each step takes the likeliest token."""
        if "temperature" not in inspect.signature(type(self.pipe.scheduler).step).parameters:
            return False  # EntropyBoundScheduler anneals a temperature of its own
        call = self.expanded.arguments
        return call.get("temperature") == 0 or call.get("sampling_method") == "greedy"

    @property
    def inputs(self) -> str:
        """What the pipeline yields."""
        return "text" if self._decoder is not None else "tokens"

    @property
    def readable(self) -> tuple[str, ...]:
        """Kinds of samples that rewards may read."""
        return ("latents", "tokens", "text") if self.inputs == "text" else ("latents", "tokens")

    @property
    def _decoder(self) -> Any:
        raise NotImplementedError

    def __call__(self) -> Any:
        """Make the call; returns the pipeline's own output for all rows."""
        with ExitStack() as stack:
            stack.enter_context(self._tapped_scheduler())
            stack.enter_context(self._tapped_model())
            stack.enter_context(others_refused(self.pipe))
            call = dict(self.expanded.arguments)
            # For what the pipeline draws for all rows at once; each row's own draw replaces it.
            spare = stream(self.engine.seed, "pipeline")
            return self.pipe(**self._watched(call), generator=spare)

    def _watched(self, call: dict[str, Any]) -> dict[str, Any]:
        return call

    def decode(self, latents: Tensor, inputs: str, rows: Tensor | None = None) -> Any:
        """Tokens (n, L) as a reward reads them."""
        if inputs in ("tokens", "latents"):
            return latents
        with self.cost.time("decode"):
            self.cost.decodes += len(latents)
            return self._texts(latents)

    def stand_in(self, inputs: str) -> StandIn:
        """Two made-up rows of tokens, or their texts."""
        generator = torch.Generator().manual_seed(0)
        call, config = self.expanded.arguments, self.pipe.model.config
        if hasattr(config, "get_text_config"):
            config = config.get_text_config(decoder=True)
        most = getattr(config, "vocab_size", None) or 1 + int(call["input_ids"].max())
        tokens = torch.randint(most, (2, call["gen_length"]), generator=generator)
        tokens = tokens.to(self.pipe.device)
        return StandIn(self._texts(tokens) if inputs == "text" else tokens, exact=False)

    def _texts(self, tokens: Tensor) -> list[str]:
        return self._decoder.batch_decode(self._trimmed(tokens), skip_special_tokens=True)

    def _trimmed(self, tokens: Tensor) -> list[Tensor]:
        """Rows up to their first end-of-sequence token, as the pipelines decode them."""
        given = self.expanded.arguments.get("eos_token_id")
        eos = self.pipe.eos_token_id if given is None else given
        ends = [(row == eos).nonzero().flatten() if eos is not None else [] for row in tokens]
        return [
            row[: int(end[0]) + 1] if len(end) else row
            for row, end in zip(tokens, ends, strict=True)
        ]

    @contextmanager
    def _tapped_scheduler(self) -> Iterator[None]:
        """One copy of the scheduler for each row, behind one that calls them all."""
        original = self.pipe.scheduler
        front = copy.deepcopy(original)
        base = type(front)

        def rowwise(name: str) -> Callable[..., Any]:
            method = getattr(base, name)

            @functools.wraps(method)
            def call(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
                bound = inspect.signature(method).bind(scheduler, *args, **kwargs)
                arguments = {k: v for k, v in bound.arguments.items() if k != "self"}
                return self._stepped(front, method, name, arguments)

            return call

        methods: dict[str, Any] = {
            name: rowwise(name) for name in ("step", "step_correct") if hasattr(base, name)
        }
        front.__class__ = variant(base, **methods)
        self.pipe.scheduler = front
        try:
            yield
        finally:
            self.pipe.scheduler = original

    def _stepped(
        self, front: Any, method: Callable[..., Any], name: str, arguments: dict[str, Any]
    ) -> Any:
        """The scheduler's step for every row with the row's own generator and copy."""
        if not self._rows:
            self._rows = [copy.copy(front) for _ in self.generators]
        arguments["return_dict"] = True
        out = []
        for i, (own, generator) in enumerate(zip(self._rows, self.generators, strict=True)):
            row = {
                k: arguments[k][i : i + 1] if k in ("model_output", "sample") else v
                for k, v in arguments.items()
            }
            out.append(method(own, **{**row, "generator": generator}))
        fields = {key: torch.cat([part[key] for part in out]) for key in out[0]}
        whole = type(out[0])(**fields)
        if name == "step":
            self._logits = fields["pred_logits"]
            self._after(arguments, whole)
        return whole

    def _after(self, arguments: dict[str, Any], out: Any) -> None:
        """Sees each step's output, and may edit it."""

    @contextmanager
    def _tapped_model(self) -> Iterator[None]:
        """Count and micro-batch the network's calls."""
        module = self.pipe.model
        base = type(module)
        signature = inspect.signature(module.forward)

        def call(own: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            self._before(bound)
            network = functools.partial(base.__call__, module)
            rows = len(self.generators)

            def few(size: int) -> Any:
                if size >= rows:
                    return network(*bound.args, **bound.kwargs)
                return self._cut(network, bound, size)

            with self.cost.time("denoise"):
                out = within_memory(self, rows, few) if self.divisible else few(rows)
            self.cost.denoiser_evaluations += rows
            return out

        with calling(module, call):
            yield

    def _cut(self, network: Callable[..., Any], bound: inspect.BoundArguments, size: int) -> Any:
        def logits(*args: Any, **kwargs: Any) -> Any:
            return (network(*args, **kwargs).logits,)

        parts = torch.arange(batch_of(bound)).split(size)
        return SimpleNamespace(logits=chunked(logits, bound, parts)[0])

    def _before(self, bound: inspect.BoundArguments) -> None:
        """May replace what the network is asked."""

    def _probabilities(self) -> Tensor:
        """Probabilities (N, L, V) that the last step drew from, top-k and top-p apart."""
        assert self._logits is not None
        if self._greedy:
            likeliest = self._logits.argmax(-1, keepdim=True)
            return torch.zeros_like(self._logits.float()).scatter(-1, likeliest, 1.0)
        temperature = self.expanded.arguments.get("temperature")
        return (self._logits.float() / (1.0 if temperature is None else temperature)).softmax(-1)

    def _transition(
        self, index: int, total: int, x: Tensor, x_next: Tensor, draw: Draw
    ) -> Tensor | None:
        """Hand a transition to the engine; rows to continue, None where none moved."""
        step = token_step(
            *(self.engine, self.expanded.prompts, index, total, x, x_next),
            source=self,
            draw=draw,
            parents=self._parents,
        )
        self._parents = rows = self.engine.transition(step)
        if rows is not None:
            # Generators stay with the slots; what a scheduler remembers goes with the particle.
            self._rows = [copy.copy(self._rows[row]) for row in rows.tolist()]
        return rows

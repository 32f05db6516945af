"""Taps of pipelines that draw tokens: LLaDA2's block refinement, DiffusionGemma's one canvas.

A scheduler's step draws all rows with one generator, so a copy of the scheduler serves each row
with the row's own. LLaDA2 keeps its tokens in a block of the *pipeline*, which its callback may
replace; that is where particles are permuted, with all the blocks before. DiffusionGemma takes its
canvas and the logits that it conditions on from the scheduler's output.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fkdiff.processes.streams import stream
from fkdiff.processes.tokens import draw_tokens
from fkdiff.taps.arguments import Expanded
from fkdiff.taps.coefficients import TapError
from fkdiff.taps.denoiser import calling, chunked
from fkdiff.taps.engine import Engine
from fkdiff.terms.cost import Cost
from fkdiff.terms.step import Step

__all__ = ["CanvasTap", "LLaDA2Tap", "TokenTap", "draws_tokens", "expand_tokens", "token_tap"]


def draws_tokens(pipe: Any) -> bool:
    """Whether the pipeline is one of those that this module taps."""
    return any(base.__name__ in _TAPS for base in type(pipe).__mro__)


def token_tap(pipe: Any, **settings: Any) -> "TokenTap":
    """The tap for the pipeline; `settings` are those of `TokenTap`."""
    name = next(base.__name__ for base in type(pipe).__mro__ if base.__name__ in _TAPS)
    return _TAPS[name](pipe, **settings)


def expand_tokens(
    pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], particles: int
) -> Expanded:
    """Bind the user's call and repeat its prompts or input tokens `particles` times each.

    Raises:
        TapError: If the call asks for what can't be steered.
    """
    signature = inspect.signature(type(pipe).__call__)
    bound = signature.bind(pipe, *args, **kwargs)
    bound.apply_defaults()
    given = {k: v for k, v in bound.arguments.items() if k not in ("self", "generator")}
    prompt, messages, ids = (given.get(k) for k in ("prompt", "messages", "input_ids"))
    if ids is not None:
        ids = ids[None] if ids.ndim == 1 else ids
        given["input_ids"] = ids.repeat_interleave(particles, dim=0)
        if given.get("attention_mask") is not None:
            mask = given["attention_mask"].reshape(ids.shape)
            given["attention_mask"] = mask.repeat_interleave(particles, dim=0)
        return Expanded(given, [""] * len(ids), 1, None)
    if messages is None and not prompt:
        raise TapError(f"{type(pipe).__name__} needs a prompt, got {prompt!r}; give prompt='...'")
    texts = [prompt] if isinstance(prompt, str) else list(prompt or [""])
    return _repeated(pipe, given, texts, particles)


def _repeated(pipe: Any, given: dict[str, Any], texts: list[str], particles: int) -> Expanded:
    if "use_chat_template" not in given:
        if given.get("messages") is not None or given.get("image") is not None:
            raise TapError(
                f"{type(pipe).__name__} is steered with prompts alone; leave out messages, image"
            )
        given["prompt"] = [text for text in texts for _ in range(particles)]
        return Expanded(given, texts, 1, None)
    names = (
        "messages", "input_ids", "attention_mask", "use_chat_template", "add_generation_prompt"
    )  # fmt: skip
    asked = {name: given[name] for name in names}
    prompt = texts[0] if isinstance(given["prompt"], str) else given["prompt"]
    ids, mask = pipe._prepare_input_ids(prompt=prompt, chat_template_kwargs=None, **asked)
    given |= {"prompt": None, "messages": None}
    given["input_ids"] = ids.repeat_interleave(particles, dim=0)
    given["attention_mask"] = mask.repeat_interleave(particles, dim=0)
    return Expanded(given, texts, 1, None)


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
    _rows: list[Any] = field(default_factory=list, repr=False)
    _parents: Tensor | None = field(default=None, repr=False)
    _logits: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        call = self.expanded.arguments
        greedy = call.get("temperature") == 0 or call.get("sampling_method") == "greedy"
        if "temperature" not in inspect.signature(type(self.pipe.scheduler).step).parameters:
            greedy = False  # EntropyBoundScheduler anneals a temperature of its own
        if self.resamples and greedy:
            raise TapError(
                "temperature must be positive where resampling can fire: copies would draw the "
                "same tokens; pass temperature=0.7, or set resample=None"
            )

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
            call = dict(self.expanded.arguments)
            # For what the pipeline draws for all rows at once; each row's own draw replaces it.
            spare = stream(self.engine.seed, "pipeline")
            return self.pipe(**self._watched(call), generator=spare)

    def _watched(self, call: dict[str, Any]) -> dict[str, Any]:
        return call

    def decode(self, latents: Tensor, inputs: str) -> Any:
        """Tokens (n, L) as a reward reads them."""
        if inputs in ("tokens", "latents"):
            return latents
        with self.cost.time("decode"):
            self.cost.decodes += len(latents)
            return self._decoder.batch_decode(self._trimmed(latents), skip_special_tokens=True)

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
        front.__class__ = type(base.__name__, (base,), {**methods, "__module__": base.__module__})
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
            rows, size = len(self.generators), self.micro_batch or len(self.generators)
            with self.cost.time("denoise"):
                whole = size >= rows
                out = network(*bound.args, **bound.kwargs) if whole else self._cut(network, bound)
            self.cost.denoiser_evaluations += rows
            return out

        with calling(module, call):
            yield

    def _cut(self, network: Callable[..., Any], bound: inspect.BoundArguments) -> Any:
        def logits(*args: Any, **kwargs: Any) -> Any:
            return (network(*args, **kwargs).logits,)

        return SimpleNamespace(logits=chunked(logits, bound, self.micro_batch or 1)[0])

    def _before(self, bound: inspect.BoundArguments) -> None:
        """May replace what the network is asked."""

    def _probabilities(self) -> Tensor:
        """Probabilities (N, L, V) that the last step drew from, top-k and top-p apart."""
        assert self._logits is not None
        temperature = float(self.expanded.arguments.get("temperature") or 1.0)
        return (self._logits.float() / temperature).softmax(-1)

    def _transition(
        self,
        index: int,
        total: int,
        x: Tensor,
        x_next: Tensor,
        draw: Callable[[Tensor, Sequence[torch.Generator], int], Tensor],
    ) -> Tensor | None:
        """Hand a transition to the engine; rows to continue, None where none moved."""
        prompts, particles = self.engine.log_w.shape
        parents = torch.arange(len(x_next)) if self._parents is None else self._parents

        def estimate() -> Tensor:
            slots = [(row // particles, row % particles) for row in range(len(x_next))]
            streams = [stream(self.engine.seed, p, k, "estimate", index) for p, k in slots]
            return draw(torch.arange(len(x_next)), streams, 1)[0]

        rows = self.engine.transition(
            Step(
                index=index,
                total=total,
                x=x,
                x_next=x_next,
                path=None,
                prompts=prompts,
                particles=particles,
                context={"prompts": [t for t in self.expanded.prompts for _ in range(particles)]},
                log_w=self.engine.log_w,
                may_resample=self.engine.may_resample(index, total),
                parents=parents,
                source=self,
                estimate=estimate,
                seed=self.engine.seed,
                draw=draw,
            )
        )
        self._parents = torch.arange(len(x_next)) if rows is None else rows
        if rows is not None:
            # Generators stay with the slots; what a scheduler remembers goes with the particle.
            self._rows = [copy.copy(self._rows[row]) for row in rows.tolist()]
        return rows


@dataclass
class LLaDA2Tap(TokenTap):
    """`LLaDA2Pipeline`: blocks from left to right, each refined in several steps.

    Progress is counted in nominal steps: blocks times `num_inference_steps`, with the post-steps
    of a block at its last.
    """

    _steps: int = 0
    _post: int = 0
    _edited: Tensor | None = field(default=None, repr=False)
    _finished: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resamples and self.expanded.arguments["eos_early_stop"]:
            raise TapError(
                "eos_early_stop must be False where resampling can fire: the pipeline keeps which "
                "rows have ended in a place where they can't follow a resampled particle; texts "
                "are cut at their end all the same"
            )

    @property
    def _decoder(self) -> Any:
        return self.pipe.tokenizer

    @property
    def _prompt_length(self) -> int:
        return self.expanded.arguments["input_ids"].shape[1]

    def _blocks(self) -> tuple[int, int, int]:
        """Length of a block, first block, number of blocks."""
        call = self.expanded.arguments
        size = call["block_length"] or self.pipe.scheduler.config.block_length
        count = -(-(self._prompt_length + call["gen_length"]) // size)
        return size, self._prompt_length // size, count

    def _watched(self, call: dict[str, Any]) -> dict[str, Any]:
        self._steps = min(call["num_inference_steps"], call["gen_length"] // call["minimal_topk"])
        users, asked = call["callback_on_step_end"], call["callback_on_step_end_tensor_inputs"]
        wanted = list(getattr(users, "tensor_inputs", asked) or ["block_x"])

        def callback(pipe: Any, step: int, timestep: int, given: dict[str, Any]) -> dict[str, Any]:
            if users is not None:
                theirs = users(pipe, step, timestep, {k: given[k] for k in wanted})
                given = {**given, **theirs}
            rows = self._on_step(timestep, given)
            block = given["block_x"]
            return {"block_x": block if rows is None else block[rows.to(block.device)]}

        names = [*wanted, "block_x", "active_block", "editing_transfer_index"]
        return {
            **call,
            "callback_on_step_end": callback,
            "callback_on_step_end_tensor_inputs": list(dict.fromkeys(names)),
        }

    @contextmanager
    def _tapped_scheduler(self) -> Iterator[None]:
        with super()._tapped_scheduler():
            front = self.pipe.scheduler
            original = front.check_eos_finished

            def watched(**kwargs: Any) -> Tensor:
                finished = original(**kwargs)
                self._finished = finished
                return finished

            front.check_eos_finished = watched
            yield

    def _on_step(self, timestep: int, given: dict[str, Any]) -> Tensor | None:
        block_x, active = given["block_x"], given["active_block"]
        size, first, count = self._blocks()
        block = block_x.shape[1] // size - 1 - first
        masks = bool(active.any())
        self._post = 0 if masks else self._post + 1
        going = self._goes_on(timestep + masks, masks, given["editing_transfer_index"])
        ended = not going and (block == count - first - 1 or self._all_finished())
        total = (count - first) * self._steps + 1
        index = total - 1 if ended else block * self._steps + min(timestep, self._steps - 1)
        begun = self._generated(block_x)
        return self._transition(
            index, total, begun, begun, functools.partial(self._drawn, block_x)
        )

    def _all_finished(self) -> bool:
        return self._finished is not None and bool(self._finished.all())

    def _goes_on(self, step: int, masks: bool, edited: Tensor) -> bool:
        """What the pipeline will find when it asks whether to go on with this block."""
        call = self.expanded.arguments
        threshold = call["editing_threshold"]
        finished = torch.zeros(1, dtype=torch.bool) if self._finished is None else self._finished
        return self.pipe.scheduler.check_block_should_continue(
            step_idx=step,
            masks_remaining=masks,
            editing_enabled=threshold is not None and threshold > 0,
            editing_transfer_index=edited,
            post_steps=self._post,
            max_post_steps=call["max_post_steps"],
            finished=finished,
        )

    def _mask(self) -> int:
        given = self.expanded.arguments["mask_token_id"]
        return self.pipe.mask_token_id if given is None else given

    def _generated(self, block_x: Tensor) -> Tensor:
        """Tokens after the prompt, masks for those to come, shape (N, gen_length)."""
        length = self.expanded.arguments["gen_length"]
        tokens = block_x[:, self._prompt_length :][:, :length]
        return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=self._mask())

    def _drawn(
        self, block_x: Tensor, rows: Tensor, streams: Sequence[torch.Generator], draws: int
    ) -> Tensor:
        """The block's masks drawn from the step's probabilities; later blocks stay masks."""
        at = rows.to(block_x.device)
        tokens, p = block_x[at], self._probabilities()[at]
        shape = (draws, p.shape[1])
        u = torch.stack([torch.rand(shape, generator=g) for g in streams], 1).to(p.device)
        filled = draw_tokens(p.expand(draws, -1, -1, -1), u)
        block = tokens[:, -p.shape[1] :]
        filled = torch.where(block == self._mask(), filled, block)
        whole = torch.cat([tokens[:, : -p.shape[1]].expand(draws, -1, -1), filled], -1)
        return torch.stack([self._generated(one) for one in whole])


@dataclass
class CanvasTap(TokenTap):
    """`DiffusionGemmaPipeline` for one canvas: tokens and logits come from the scheduler's output.

    Beyond one canvas each row's context is kept in a cache of keys and values, which can't follow
    a resampled particle.
    """

    _first: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        call = self.expanded.arguments
        length = self.pipe.model.config.canvas_length
        if call["gen_length"] > length:
            raise TapError(
                f"gen_length must be at most one canvas ({length} tokens), got "
                f"{call['gen_length']}: the pipeline keeps earlier canvases in a cache of keys "
                f"and values (pipelines/diffusion_gemma/pipeline_diffusion_gemma.py), where they "
                f"can't follow a resampled particle"
            )
        if call["confidence_threshold"] is not None:
            raise TapError(
                "confidence_threshold must be None: with it rows stop early, and which did can't "
                "follow a resampled particle"
            )
        if self.micro_batch is not None and self.micro_batch < len(self.generators):
            raise TapError(
                f"micro_batch must be None with {type(self.pipe).__name__}, whose cache of the "
                f"prompt has all rows, got {self.micro_batch}; use fewer particles"
            )

    @property
    def _decoder(self) -> Any:
        return self.pipe.processor

    def _before(self, bound: inspect.BoundArguments) -> None:
        """Replace the canvas that all rows were drawn for at once by each row's own."""
        canvas = bound.arguments.get("decoder_input_ids")
        if canvas is None:
            canvas = bound.arguments.get("kwargs", {}).get("decoder_input_ids")
        if self._first is not None or canvas is None:
            return
        vocabulary = self.pipe.model.config.get_text_config(decoder=True).vocab_size
        shape = (1, canvas.shape[1])
        rows = [torch.randint(0, vocabulary, shape, generator=g) for g in self.generators]
        self._first = torch.cat(rows).to(canvas.device)
        canvas.copy_(self._first)

    def _after(self, arguments: dict[str, Any], out: Any) -> None:
        index, total = int(arguments["timestep"]), int(self.pipe.scheduler.num_inference_steps)
        canvas = out.prev_sample
        rows = self._transition(index, total, arguments["sample"], canvas, self._drawn)
        if rows is None:
            return
        for name in list(out):
            out[name] = out[name][rows.to(out[name].device)]
        self._logits = out["pred_logits"]

    def _drawn(self, rows: Tensor, streams: Sequence[torch.Generator], draws: int) -> Tensor:
        p = self._probabilities()[rows]
        shape = (draws, p.shape[1])
        u = torch.stack([torch.rand(shape, generator=g) for g in streams], 1).to(p.device)
        return draw_tokens(p.expand(draws, -1, -1, -1), u)


_TAPS: dict[str, type[TokenTap]] = {
    "LLaDA2Pipeline": LLaDA2Tap,
    "DiffusionGemmaPipeline": CanvasTap,
}

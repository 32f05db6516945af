"""The class decorator behind the custom pipelines, and the three calls it puts around stock."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch

from fkdiff.processes.streams import drawn_seed
from fkdiff.rgba import Cutout, Mask
from fkdiff.rgba.mattes import Method
from fkdiff.smc import Resample
from fkdiff.steering import steer
from fkdiff.terms import Correct, RLGuidance, Term

__all__ = ["alfie_call", "fk_call", "rlg_call", "steerable"]

P = TypeVar("P", bound=type)

_LOADING = """Loading:
    .. code-block:: python

        pipe = DiffusionPipeline.from_pretrained(
            "{checkpoint}",
            custom_pipeline="pipelines/{file}.py",
            trust_remote_code=True,
        )
"""


def steerable(call: Callable[..., Any], checkpoint: str) -> Callable[[P], P]:
    """Return a class decorator that puts `call` around the call of a stock pipeline.

    The class's first base is the stock pipeline. `save_pretrained` writes what that would, so that
    the checkpoint loads anywhere.

    Arguments:
        call: Is given the stock call, the pipeline and the arguments. Its keyword-only parameters
            join the signature, its docstring that of the class.
        checkpoint: Published weights, for the docstring.
    """

    def decorator(cls: P) -> P:
        stock = cls.__mro__[1]
        stock_call = stock.__call__

        @functools.wraps(stock_call)
        def whole_call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return call(stock_call, self, *args, **kwargs)

        @functools.wraps(stock.save_pretrained)
        def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> None:
            saved = copy.copy(self)  # with its whole config, of which components are a part
            saved.__class__ = stock
            saved.save_pretrained(*args, **kwargs)

        vars(whole_call)["__signature__"] = _joined_signature(stock_call, call)
        cls.__call__, cls.save_pretrained = whole_call, save_pretrained
        loading = _LOADING.format(checkpoint=checkpoint, file=cls.__module__.rpartition(".")[2])
        cls.__doc__ = f"{cls.__doc__}\n\n{inspect.getdoc(call)}\n\n{loading}"
        return cls

    return decorator


def _joined_signature(stock_call: Any, call: Any) -> inspect.Signature:
    """The stock parameters followed by our keyword-only ones."""
    stock = inspect.signature(stock_call)
    stated = list(stock.parameters.values())
    extra = [p for p in inspect.signature(call).parameters.values() if p.kind is p.KEYWORD_ONLY]
    tail = [p for p in stated if p.kind is p.VAR_KEYWORD]
    return stock.replace(parameters=[p for p in stated if p not in tail] + extra + tail)


def fk_call(
    stock_call: Callable[..., Any],
    pipe: Any,
    *args: Any,
    terms: Sequence[Term] | None = None,
    particles: int = 4,
    resample: Resample | None = Resample(),  # noqa: B008  # frozen
    stochastic: bool | None = None,
    micro_batch: int | None = None,
    select: str | None = None,
    **kwargs: Any,
) -> Any:
    """Steers by `terms`; without them this is the stock call, bit for bit.

    It draws `particles` for each prompt or label, returns the best of them
    (`num_images_per_prompt` where the stock call has that) and the whole weighted cloud in
    `.steering`. `resample, stochastic, micro_batch, select` are those of `fkdiff.steer`.

    References:
        | A General Framework for Inference-time Scaling and Steering of Diffusion Models
        | (Singhal et al., 2025), arXiv 2501.06848

    Example:
        .. code-block:: python

            out = pipe("a red cube", terms=[Tilt(OpenCLIP(), scale=2)], particles=8)
            # a pipeline of labels: pipe([207], ...)
    """
    if terms is None:
        return stock_call(pipe, *args, **kwargs)
    steered = steer(
        pipe,
        *terms,
        particles=particles,
        resample=resample,
        stochastic=stochastic,
        micro_batch=micro_batch,
        select=select,
    )
    return steered(*args, **kwargs)


def rlg_call(
    stock_call: Callable[..., Any],
    pipe: Any,
    *args: Any,
    tuned: str | Any | Mapping[Any, float] | None = None,
    w: float | Callable[[float], float] = 1.0,
    interval: tuple[float, float] | None = None,
    mode: Literal["output", "weights"] = "output",
    correct: bool = False,
    particles: int = 4,
    micro_batch: int | None = None,
    **kwargs: Any,
) -> Any:
    """Leans on `tuned`; without it this is the stock call, bit for bit.

    Each prediction is base + w (tuned - base), where `tuned` is a loaded LoRA adapter, a
    network or a pipeline; w = 1 is the tuned model. `interval` and `mode` are those of
    `fkdiff.RLGuidance`; with `correct=True` each picture is drawn from a weighted cloud of so many
    `particles`.

    References:
        | Inference-Time Alignment Control for Diffusion Models with Reinforcement Learning
        | Guidance, arXiv 2508.21016

    Example:
        .. code-block:: python

            pipe.load_lora_weights("path/of/lora", adapter_name="tuned")
            out = pipe("a red cube", tuned="tuned", w=1.6)
    """
    if tuned is None:
        return stock_call(pipe, *args, **kwargs)
    terms = (RLGuidance(tuned, w, interval, mode), *([Correct()] if correct else []))
    if not correct:  # every particle is a picture of its own
        particles = _wanted_pictures(kwargs)
    settings = {"particles": particles, "micro_batch": micro_batch}
    select = "sample" if correct else "all"
    return steer(pipe, *terms, select=select, **settings)(*args, **kwargs)


def alfie_call(
    stock_call: Callable[..., Any],
    pipe: Any,
    *args: Any,
    background: str | None = "a white background",
    mask: Mask | None = Mask(),  # noqa: B008  # frozen
    subject: str | None = None,
    method: Method = "default",
    terms: Sequence[Term] = (),
    particles: int = 4,
    seeds: Sequence[int] | None = None,
    micro_batch: int | None = None,
    **kwargs: Any,
) -> Any:
    """Cuts pictures out; with `background=None` this is the stock call, bit for bit.

    Pictures come out with alpha, of the type that `output_type` names ("pil", "np" or "pt").
    `background, mask, subject, method` are those of `fkdiff.Cutout`; with `terms` such as
    `Tilt(Uncropped())` each picture is the best of a cloud of so many `particles`; `seeds`, one
    for each picture, make it the same in any company (as many generators supply them too).

    References:
        | ALFIE: Democratising RGBA Image Generation With No $$$ (2024), arXiv 2408.14826

    Example:
        .. code-block:: python

            pipe("a guitar").images[0].save("guitar.png")
    """
    if background is None:
        return stock_call(pipe, *args, **kwargs)
    if not terms:  # every particle is a picture of its own
        particles = _wanted_pictures(kwargs)
    generators = kwargs.get("generator")
    if seeds is None and isinstance(generators, list) and len(generators) > 1:
        seeds = [drawn_seed(generator) for generator in generators]
    steered = steer(
        pipe,
        Cutout(background, mask, subject, method),
        *terms,
        particles=particles,
        micro_batch=micro_batch,
        select=None if terms else "all",
        seed=None if seeds is None else list(seeds),
    )
    with torch.no_grad():  # the run's own calls of this pipeline are stock ones
        return steered(*args, background=None, **kwargs)


def _wanted_pictures(call: Mapping[str, Any]) -> int:
    """Pictures that a call asks for, of each prompt.

    Raises:
        ValueError: If there are none.
    """
    stated = call.get("num_images_per_prompt")
    if stated is not None and stated < 1:
        raise ValueError(f"num_images_per_prompt must be at least 1, got {stated}")
    return 1 if stated is None else int(stated)

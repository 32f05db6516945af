"""What `fkdiff generate` was asked for, checked as far as possible before torch is imported."""

import difflib
import math
import os
import re
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fkdiff.commands.bounds import check_bounds, check_text
from fkdiff.commands.pool_options import check_pool_options, is_prompt, powers
from fkdiff.commands.stops import refused
from fkdiff.files import home_path

__all__ = ["POTENTIALS", "SELECTS", "UNTOLD", "Request", "checked", "command_of", "parse_window"]

POTENTIALS = ("difference", "max", "sum", "current", "none")
SELECTS = ("best", "sample", "all")

UNTOLD = frozenset({"reward_timeout", "save_every", "batch", "memory", "group_timeout"})
"""Options that change nothing of what is drawn, so that no command tells them."""

_CARD_FIELDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "height": "height",
    "width": "width",
}


@dataclass(frozen=True)
class Request:
    """The options of `fkdiff generate`; None leaves a choice to the model's card or pipeline."""

    prompts: tuple[str, ...]
    model: str = "emoji"
    particles: int = 4
    reward: str | None = None
    scale: float = 2.0
    potential: str = "difference"
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    out: Path | None = None
    select: str = "best"
    images: int = 1
    micro_batch: int | None = None
    monitor: tuple[str, ...] = ()
    resample: str = "systematic"
    ess: float = 0.5
    window: str = "0.7,0.95"
    every: int | None = None
    plain: bool | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    device: str | None = None
    correct: bool = False
    anneal: float | None = None
    expert: tuple[str, ...] = ()
    product: tuple[str, ...] = ()
    reward_timeout: float | None = None
    save_every: int = 1
    batch: int | None = None
    memory: float | None = None
    group_timeout: float = 120.0

    @property
    def bundled(self) -> bool:
        """Whether the model is one of the zoo."""
        from fkdiff import zoo

        return self.model in zoo.MODELS

    @property
    def source(self) -> Path | str:
        """Where diffusers finds the model."""
        from fkdiff import zoo

        if self.bundled:
            return zoo.path(self.model)
        folder = home_path(self.model)
        return folder if os.path.isdir(folder) else self.model


def checked(request: Request) -> Request:
    """The request with the model's defaults filled in.

    Raises:
        Stop: With code 2, if it can't be met; nothing has been written.
    """
    _check_numbers(request)
    check_pool_options(request)
    _check_model(request)
    for prompt in request.prompts:
        if not prompt.strip():
            raise refused("PROMPT must not be empty; say what the picture should show")
        check_text("PROMPT", prompt)
    check_text("--negative-prompt", request.negative_prompt or "")
    filled = _with_defaults(request)
    if (filled.height is None) != (filled.width is None):
        alone, other = ("height", "width") if filled.width is None else ("width", "height")
        raise refused(
            f"--{alone} must be given with --{other} for this model, whose pipeline ignores one "
            f"alone; give both"
        )
    if filled.bundled:
        _check_words(filled)
    _check_out(filled)
    return filled


def parse_window(text: str) -> tuple[float, float]:
    """Two fractions of the run, from `--window`.

    >>> parse_window("0.2,0.9")
    (0.2, 0.9)
    """
    parts = text.split(",")
    try:
        first, last = (float(part) for part in parts)
    except ValueError:
        first, last = 1.0, 0.0
    if not 0 <= first <= last <= 1:
        rule = "two fractions of the run, FIRST,LAST with 0 <= FIRST <= LAST <= 1"
        raise refused(f"--window must be {rule}, got {text!r}; use 0.7,0.95")
    return first, last


def command_of(request: Request) -> str:
    """The shell command that makes the same run.

    >>> command_of(Request(("a cat",), particles=8, seed=3))
    "fkdiff generate 'a cat' --particles 8 --seed 3"
    """
    words = ["fkdiff", "generate", *request.prompts]
    for field in fields(Request)[1:]:
        if field.name in UNTOLD:
            continue
        value, option = getattr(request, field.name), "--" + field.name.replace("_", "-")
        if value == field.default or (field.name == "plain" and value is None):
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-"))
        else:
            for item in value if isinstance(value, tuple) else (value,):
                words += [option, f"{item:g}" if isinstance(item, float) else str(item)]
    return shlex.join(words)


def _check_numbers(request: Request) -> None:
    limit = request.reward_timeout
    if limit is not None and not 0 < limit < math.inf:
        raise refused(f"--reward-timeout must be a positive number of seconds, got {limit:g}")
    if not 0 < request.group_timeout < math.inf:
        seconds = f"{request.group_timeout:g}"
        raise refused(f"--group-timeout must be a positive number of seconds, got {seconds}")
    if request.memory is not None and not 0 < request.memory < math.inf:
        raise refused(f"--memory must be a positive number of GB, got {request.memory:g}")
    check_bounds(request)
    if request.images > request.particles:
        more = f"--particles {request.images}"
        raise refused(
            f"--images must be at most --particles, got {request.images} of {request.particles}; "
            f"use {more}"
        )
    if not 0 <= request.ess <= 1:
        raise refused(f"--ess must be in [0, 1], got {request.ess:g}; 0.5 resamples below half")
    parse_window(request.window)
    _check_choice("--potential", request.potential, POTENTIALS)
    _check_choice("--select", request.select, SELECTS)
    for option, words in (("--reward", [request.reward]), ("--monitor", request.monitor)):
        if any(spec is not None and not spec.strip() for spec in words):
            raise refused(f"{option} must name a reward, got ''; `fkdiff rewards` lists them")
    if "none" in map(str.strip, request.monitor):
        raise refused("--monitor must name a reward, got 'none'; leave it out to report none")


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise refused(f"{option} must be one of {', '.join(known)}, got {value!r}")


def _check_model(request: Request) -> None:
    from fkdiff import zoo

    name, folder = request.model, home_path(request.model)
    if name in zoo.MODELS:
        if not (zoo.path(name) / "card.json").is_file():
            raise refused(f"the bundled model {name} is missing from this installation of fkdiff")
        if zoo.MODELS[name].kind != "pipeline":
            raise refused(f"--model {name} is a {zoo.MODELS[name].kind}, it draws no pictures")
    elif os.path.exists(folder):
        if not (folder / "model_index.json").is_file():
            raise refused(
                f"--model {name} isn't a diffusers pipeline: it has no model_index.json; give a "
                "folder written by save_pretrained, a Hub id or a bundled model"
            )
    elif not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        near = difflib.get_close_matches(name, list(zoo.MODELS), n=1)
        hint = f"did you mean {near[0]}?" if near else "see `fkdiff zoo`"
        raise refused(f"--model {name} is no bundled model, no folder and no Hub id; {hint}")


def _with_defaults(request: Request) -> Request:
    from fkdiff import zoo

    if not request.bundled:
        if request.reward is None:
            raise refused(
                "--reward must be given for a model of your own: what should its pictures be? "
                "`fkdiff rewards` lists them, `--reward none` draws without"
            )
        return replace(request, plain=bool(request.plain))
    defaults = zoo.card(request.model).get("defaults", {})
    changes: dict[str, Any] = {
        field: defaults[name]
        for name, field in _CARD_FIELDS.items()
        if name in defaults and getattr(request, field) is None
    }
    changes |= {"reward": request.reward or "emoji-clip", "plain": request.plain is not False}
    return replace(request, **changes)


def _check_words(request: Request) -> None:
    from fkdiff import zoo

    products = [name for name in powers("--product", request.product) if is_prompt(name)]
    for text in (*request.prompts, request.negative_prompt or "", *products):
        try:
            zoo.check_prompt(text, request.model)
        except ValueError as error:
            raise refused(error) from None


def _check_out(request: Request) -> None:
    from fkdiff.report import check_folder

    if request.out is None:
        return
    try:
        check_folder(request.out)
    except OSError as error:
        raise refused(f"--out {request.out}: {error}") from None

"""`--correct`, `--anneal`, `--expert` and `--product`: from words to terms."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkdiff.commands.stops import refused
from fkdiff.files import home_path

if TYPE_CHECKING:
    from fkdiff.commands.request import Request

__all__ = [
    "check_pool_options",
    "expert_name",
    "is_prompt",
    "load_expert",
    "pool_of",
    "powers",
    "sources_of",
]

_LARGEST = 1000
"""Exponent beyond which float32 is all that would be seen."""
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def powers(option: str, given: tuple[str, ...]) -> dict[str, float]:
    """Names with their exponents, from NAME=W words.

    >>> powers("--expert", ("emoji-rl=1.6", "runs/lora=0.5"))
    {'emoji-rl': 1.6, 'runs/lora': 0.5}
    """
    found: dict[str, float] = {}
    for words in given:
        name, equals, value = words.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (equals and name and math.isfinite(number)):
            example = "emoji-rl=1.6" if option == "--expert" else "path/of/pipeline=0.5"
            raise refused(f"{option} must be NAME=NUMBER, got {words!r}; use {option} {example}")
        if abs(number) > _LARGEST:
            raise refused(f"{option} must be at most {_LARGEST} in size, got {number:g}")
        if name in found:
            raise refused(f"{option} must name each expert once, got {name!r} twice")
        found[name] = number
    return found


def check_pool_options(request: "Request") -> None:
    """Refuse numbers and names that can't be meant.

    Raises:
        Stop: With code 2.
    """
    anneal = request.anneal
    if anneal is not None and not 0 < anneal < math.inf:
        raise refused(f"--anneal must be positive and finite, got {anneal:g}")
    if anneal is not None and anneal > _LARGEST:
        raise refused(f"--anneal must be at most {_LARGEST}, got {anneal:g}")
    experts, products = powers("--expert", request.expert), powers("--product", request.product)
    total = 1 + sum(products.values())
    if total <= 0:
        raise refused(
            f"--product must leave a positive sum of exponents, got {total:g} "
            f"with the model's own 1; raise the negative ones"
        )
    for name in experts:
        _expert_source(name)
    for name in products:
        folder = home_path(name)
        if os.path.isdir(folder) and not (folder / "model_index.json").is_file():
            raise refused(
                f"--product {name} isn't a diffusers pipeline: it has no model_index.json; give a "
                "folder written by save_pretrained, a Hub id or a prompt"
            )


def expert_name(name: str) -> str:
    """What an expert's adapter is called in the pipeline.

    >>> expert_name("emoji-rl"), expert_name("runs/taste.v2/")
    ('emoji-rl', 'taste-v2')
    """
    return re.sub(r"[^\w-]", "-", Path(name).name) or "expert"


def _expert_source(name: str) -> Path | str:
    """Where an expert's weights are."""
    from fkdiff import zoo

    known = zoo.adapters()
    if name in known:
        return zoo.path(name)
    folder = home_path(name)
    if os.path.isdir(folder):
        if not any(folder.glob("*.safetensors")):
            raise refused(f"--expert {name} holds no LoRA: no .safetensors file is in it")
        return folder
    if _HUB_ID.fullmatch(name):
        return name
    bundled = f"bundled: {', '.join(known)}" if known else "none is bundled with this installation"
    raise refused(
        f"--expert {name} is no folder and no Hub id of a LoRA ({bundled}); "
        f"train emoji-rl: python -m fkdiff.zoo.train emoji-rl"
    )


def is_prompt(name: str) -> bool:
    """Whether a product's name is a prompt, and neither a folder nor a Hub id.

    >>> is_prompt("a cat and a dog"), is_prompt("owner/name")
    (True, False)
    """
    return not (os.path.isdir(home_path(name)) or _HUB_ID.fullmatch(name))


def load_expert(pipe: Any, name: str) -> str:
    """Load an expert's LoRA into a pipeline; the adapter's name.

    Raises:
        Stop: With code 2, if it can't be had.
    """
    source, adapter = _expert_source(name), expert_name(name)
    try:
        pipe.load_lora_weights(source, adapter_name=adapter)
        pipe.disable_lora()  # the pipeline itself stays the base; the run switches experts on
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError, KeyError) as error:
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "size mismatch" in str(error):
            told = f"it was trained for another model than this {type(pipe).__name__}"
        if "PEFT" in told:
            told = "peft isn't installed; try: pip install 'fkdiff[lora]'"
        raise refused(f"--expert {name} can't be loaded: {told}") from None
    return adapter


def sources_of(request: "Request") -> dict[str, str]:
    """Where each adapter came from, for the Python that does the same."""
    return {expert_name(name): name for name in powers("--expert", request.expert)}


def pool_of(request: "Request", pipe: Any, load: Any) -> tuple[Any, ...]:
    """The terms that the options ask for, their experts loaded.

    Arguments:
        request: The options.
        pipe: The pipeline, which gets the adapters.
        load: Loads another pipeline, from its folder or Hub id.
    """
    from fkdiff import Anneal, Correct, Product, RLGuidance

    terms: list[Any] = []
    experts = powers("--expert", request.expert)
    if experts:
        loaded = {load_expert(pipe, name): w for name, w in experts.items()}
        ((first, w), *more) = loaded.items()
        terms.append(RLGuidance(loaded) if more else RLGuidance(first, w))
    for name, b in powers("--product", request.product).items():
        terms.append(Product(name if is_prompt(name) else load(name), b))
    if request.anneal is not None:
        terms.append(Anneal(request.anneal))
    return (*terms, Correct()) if request.correct else tuple(terms)
